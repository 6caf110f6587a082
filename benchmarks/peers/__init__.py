"""The same GRPO step by Taut and by what users would take instead: `python -m benchmarks.peers`."""

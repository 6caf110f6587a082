"""Tokens a second of the engines on this machine: Taut's transformers engine, transformers' own `generate`, vLLM.

    python -m benchmarks.engines                                       # the embedded model and two random ones
    python -m benchmarks.engines --models models/smollm2 --repeats 3   # any folder

Every engine runs in a process of its own, in turn, with the same weights (float32 on a CPU), prompts and lengths: so many rollouts
of exactly `--tokens` tokens, for nothing ends them. Loading and a first call that warms up are not counted. A model named
`random-MILLIONS` is a Qwen3 of random weights of about that size. This table is what `rollout.engine=auto` goes by on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.tables import publish
from benchmarks.timing import in_turn, seconds
from rewards.errors import TautError
from rollout.paths import locate

ROOT = Path(__file__).parents[1]
EMBEDDED = "benchmarks:overthinker/checkpoint"
ENGINES = ("taut", "generate", "vllm")
NAMES = {"taut": "Taut's transformers engine", "generate": "transformers' generate", "vllm": "vLLM"}
SHAPES = {5: (256, 4), 30: (512, 8), 80: (768, 10)}  # millions of parameters: width, layers
PROMPT = 32


def random_model(millions: int, folder: Path) -> Path:
    """A Qwen3 of random weights, with a vocabulary of 8,192 words and no tokenizer."""
    import torch
    import transformers

    if millions not in SHAPES:
        raise TautError(f"random-{millions}: there are {', '.join(f'random-{n}' for n in SHAPES)}")
    width, layers = SHAPES[millions]
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=8192, hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64,
        num_key_value_heads=max(width // 128, 1), head_dim=64, intermediate_size=3 * width, eos_token_id=8191,
        max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    path = folder / f"random-{millions}"
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(path)
    return path


def child(engine: str, model: str, rows: int, tokens: int, calls: int) -> dict[str, Any]:
    """Tokens a second, median of `calls` calls, and the model's parameters."""
    from rollout.memory import parameters
    from rollout.types import Prompt

    prompts = [Prompt(tuple((7 * row + i) % 90 + 1 for i in range(PROMPT)), tokens, row) for row in range(rows)]
    if engine == "generate":
        import torch
        import transformers

        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        ids = torch.tensor([p.ids for p in prompts])
        settings = {"do_sample": True, "max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0}

        def once() -> None:
            with torch.inference_mode():
                loaded.generate(ids, attention_mask=torch.ones_like(ids), temperature=1.0, top_k=0, **settings)
    else:
        from rollout.choose import make_engine
        from rollout.engine import EngineConfig

        name = "vllm" if engine == "vllm" else "transformers"
        config = EngineConfig(engine=name, max_model_len=PROMPT + tokens, batch_size=rows)
        made = make_engine(config, model, [json.loads((Path(model) / "config.json").read_text())["vocab_size"] - 1])

        def once() -> None:
            made.generate(prompts)

    return {"speed": rows * tokens / seconds(once, calls), "parameters": parameters(model) or 0}


def measure(engine: str, model: str, threads: int, given: argparse.Namespace) -> dict[str, Any]:
    """`child` in a process of its own. Raises TautError with what it said."""
    shape = [engine, model, given.rows, given.tokens, given.calls]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if threads == 1:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = str(min(os.sched_getaffinity(0)))
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.engines", "--child", json.dumps(shape)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise TautError(f"{engine} on {model} failed:\n{done.stderr[-2000:]}")
    return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith('{"speed"')))


def table(found: dict[tuple[str, int], dict[str, list[dict[str, Any]]]]) -> str:
    """Markdown: a row a model and number of threads; medians with the lowest and the highest."""
    heads = ["model", "parameters", "threads", *NAMES.values(), "Taut / the faster of the others"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for (model, threads), engines in found.items():
        size = next(iter(engines.values()))[0]["parameters"]
        cells = [Path(model).name, f"{size / 1e6:.1f} M", str(threads)]
        middle = {}
        for engine in ENGINES:
            speeds = [one["speed"] for one in engines[engine]]
            middle[engine] = statistics.median(speeds)
            cells.append(f"{middle[engine]:,.0f} [{min(speeds):,.0f}, {max(speeds):,.0f}]")
        cells.append(f"{middle['taut'] / max(middle['generate'], middle['vllm']):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.engines", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[EMBEDDED, "random-5", "random-30"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each engine")
    parser.add_argument("--out", type=Path, help="put the table there, below the text before the mark")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.child:
        print(json.dumps(child(*json.loads(given.child))))
        return 0
    found: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.models:
            made = name.startswith("random-")
            model = random_model(int(name.removeprefix("random-")), Path(folder)) if made else locate(name)
            for threads in given.threads:
                programs = {engine: partial(measure, engine, str(model), threads, given) for engine in ENGINES}
                print(f"{name}, {threads} threads", file=sys.stderr, flush=True)
                told = "{speed:,.0f} tokens/s".format_map
                found[str(model), threads] = in_turn(programs, given.repeats, told)
    publish(table(found) + "\n", given.out)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TautError as error:
        sys.exit(f"engines: {error}")

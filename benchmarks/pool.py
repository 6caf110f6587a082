"""What the coordinator can carry: rollouts a second through queue, verifier, grouping and log, with timers for engines.

    python -m benchmarks.pool                                     # 1,000,000 rollouts, two workers; about four minutes
    python -m benchmarks.pool --rollouts 50000 --feed fixed
    python -m benchmarks.pool --model models/smollm2              # a real engine in a pool against the engine alone

Everything but the engines is what a run uses: Ray actors, the pool, the sampler, the verifier, batches, a parquet log a step. The
engines sample nothing: each lets rollouts end at an even pace, with responses to problems of the embedded benchmark, half of
them correct. A rollout carries the time of its end; how much later the sampler holds it is its delay.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.overthinker import CHECKPOINT, generate
from rollout.engine import Done, EngineConfig, Feed, OnDone, OnEnd
from rollout.schedule import Feed as Feeding
from rollout.types import Completion, Prompt
from rollout.worker import Worker

HELDOUT = CHECKPOINT.parent / "data/heldout.jsonl"
RESPONSES = "responses.json"
GROUP = 8
LATE_S = 0.05
# shares of the cores' time that the machine's owner takes for others during a step, from and to; see `_by_taken`
TAKEN = (0.0, 0.02, 0.05, 0.1, 1.0)


class TimerEngine:
    """An engine whose rollouts end `rate` times a second, whatever they are; each says when in its first log-prob."""

    name, canary_tolerance, max_model_len, vocab_size = "timer", 0.1, 4096, 1 << 20

    def __init__(self, folder: Path) -> None:
        made = json.loads((folder / RESPONSES).read_text())
        self.responses, self.rate = {tuple(prompt): tuple(ids) for prompt, ids in made["responses"]}, made["rate"]

    def stream(self, more: Feed, ended: OnEnd, temperature: float) -> None:
        """Take what comes; let as many end as are due."""
        waiting: list[tuple[int, Prompt]] = []
        begun, count, closed = time.monotonic(), 0, False
        while waiting or not closed:
            given = more(not waiting)
            closed = closed or given is None
            if given and not waiting:
                begun, count = time.monotonic(), 0  # it was idle: nothing is due from that time
            waiting += given or ()
            now = time.monotonic()
            due = min(int((now - begun) * self.rate) - count, len(waiting))
            for number, prompt in waiting[:due]:
                ids = self.responses[prompt.ids]
                ended(number, Completion(ids, (time.monotonic(), *[-0.1] * (len(ids) - 1)), "stop", (0,) * len(ids)))
            del waiting[:due]
            count += due
            time.sleep(0.002)


class TimerWorker(Worker):
    """A pool's worker with that engine."""

    def _start(self, config: EngineConfig, model_path: str, stop_ids: Sequence[int], index: int) -> dict[str, Any]:
        self.engine = TimerEngine(Path(model_path))
        return {"cores": [0]} | {
            n: getattr(self.engine, n) for n in ("name", "canary_tolerance", "max_model_len", "vocab_size")
        }


def measure(rollouts: int, rate: float, workers: int, step: int, feed: Feeding, out: Path) -> dict[str, Any]:
    """Numbers of one run of so many rollouts, in steps of `step`: one is sampled while the one before it is logged."""
    from rewards.verifier import Verifier
    from rollout import crew, pool
    from rollout.log import write_rollouts
    from rollout.prompts import PromptTemplate, load_tokenizer
    from rollout.sampler import Sampler, heldout_requests, to_batch
    from rollout.types import Problem, Rollout

    class Timed(pool.RayPool):
        """A pool that notes by how much a completion comes after its end."""

        def generate(self, prompts: Sequence[Prompt], temperature: float | None = None) -> list[Completion]:
            told = self.on_done
            assert told is not None

            def note(done: Done) -> None:
                told(done)
                now = time.monotonic()
                delays.extend(now - completion.log_probs[0] for _, completion in done)

            self.on_done: OnDone | None = note
            return super().generate(prompts, temperature)

    tokenizer = load_tokenizer(CHECKPOINT)
    template = PromptTemplate(tokenizer)
    problems = [Problem(r["id"], r["problem"], r["answer"], str(r["level"])) for r in generate("train", 4096, 0)]
    rng = np.random.default_rng(0)
    answers = [p.answer if rng.random() < 0.5 else str(rng.integers(10_000)) for p in problems]
    responses = [_response(tokenizer, answer, rng) for answer in answers]
    asked = [template.encode(template.render(p, None)) for p in problems]
    made = {"responses": list(zip(asked, responses, strict=True)), "rate": rate / workers}
    (out / RESPONSES).write_text(json.dumps(made))
    crew.Worker = TimerWorker  # type: ignore[misc]
    engine = Timed(EngineConfig(workers=workers, feed=feed, max_num_seqs=1024), str(out), ())
    delays: list[float] = []
    quantiles: list[NDArray[Any]] = []
    late: list[int] = []
    memory: list[tuple[int, int]] = []
    steps = -(-rollouts // step)
    with Verifier(arithmetic=False) as verifier, ThreadPoolExecutor(1) as thread:
        sampler = Sampler(engine, template, verifier, [tokenizer.eos_token_id], 0)

        def sample(number: int) -> list[Rollout]:
            first = number * step // GROUP
            some = [problems[(first + i) % len(problems)] for i in range(step // GROUP)]
            return sampler(heldout_requests(some, template, GROUP, 512))

        correct, marks = 0, [(time.monotonic(), _stolen())]
        under_way = thread.submit(sample, 0)
        for number in range(steps):
            sampled = under_way.result()
            marks.append((time.monotonic(), _stolen()))
            quantiles.append(np.quantile(delays, [0.5, 0.99, 1.0]))
            late.append(sum(delay > LATE_S for delay in delays))
            delays.clear()
            if number + 1 < steps:
                under_way = thread.submit(sample, number + 1)
            batch = to_batch(sampled)
            write_rollouts(out / f"step-{number % 8:06d}.parquet", sampled, batch, {"step": number})
            correct += int((batch.verdict == 1).sum())
            if number == 0 or (number + 1) * 10 // steps > number * 10 // steps:
                memory.append(((number + 1) * step, round(_resident())))
        seconds = time.monotonic() - marks[0][0]
    engine.close()
    by_step = np.array(quantiles) * 1e3
    passed, lost = np.diff(marks, axis=0).T  # seconds of each step, and those that others had
    return {
        "rollouts": steps * step,
        "per_second": steps * step / seconds,
        "correct": correct / steps / step,
        "tokens": float(np.mean([len(r) for r in responses])),
        "delay_ms": {
            "median": float(np.median(by_step[:, 0])),
            "99 %": float(np.median(by_step[:, 1])),
            "most": float(by_step[:, 2].max()),
        },
        "late": sum(late) / steps / step,
        "taken": float(lost.sum() / passed.sum()),
        "by_taken": _by_taken(lost / passed, by_step[:, 2], late, step),
        "memory_mib": memory,
    }


def _by_taken(taken: NDArray[Any], most_ms: NDArray[Any], late: Sequence[int], step: int) -> list[dict[str, Any]]:
    """How late rollouts came in the steps during which the machine's owner took such a share of our cores' time."""
    rows = []
    for low, high in pairwise(TAKEN):
        which = [i for i, share in enumerate(taken) if low <= share < high]
        if which:
            most, count = float(most_ms[which].max()), sum(late[i] for i in which)
            rows.append({"taken": (low, high), "rollouts": len(which) * step, "most": most, "late": count})
    return rows


def _response(tokenizer: Any, answer: str, rng: np.random.Generator) -> list[int]:
    steps = " ".join(str(n) for n in rng.integers(0, 99, rng.integers(4, 30)))
    return [
        *tokenizer.encode(f"<think>{steps}</think>\\boxed{{{answer}}}", add_special_tokens=False),
        tokenizer.eos_token_id,
    ]


def _stolen() -> float:
    """Seconds for which a hypervisor has given our cores to somebody else, their mean."""
    ticks = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    return ticks / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)


def _resident() -> float:
    """MiB of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def efficiency(model: Path, data: Path, rollouts: int, max_tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of a pool of one worker, and of the engine alone in a process: same prompts, same core, by turns."""
    from rollout.choose import make_engine
    from rollout.problems import load_problems
    from rollout.prompts import PromptTemplate, load_tokenizer

    tokenizer = load_tokenizer(model)
    template = PromptTemplate(tokenizer)
    texts = [template.encode(template.render(p, None)) for p in load_problems(str(data))[: -(-rollouts // GROUP)]]
    prompts = [Prompt(texts[i // GROUP], max_tokens, i) for i in range(rollouts)]
    config = EngineConfig(
        engine="vllm", max_model_len=max(map(len, texts)) + max_tokens, core=min(os.sched_getaffinity(0))
    )
    stops = [tokenizer.eos_token_id]
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    alone = multiprocessing.get_context("spawn").Process(
        target=_alone, args=(theirs, config, str(model), stops), daemon=True
    )
    alone.start()
    theirs.close()  # so that its end is noticed
    pool = make_engine(config.model_copy(update={"workers": 1}), str(model), stops)
    rates: dict[str, list[float]] = {"alone": [], "pool": []}
    try:
        for turn in range(rounds + 1):
            ours.send(prompts)
            tokens, seconds = ours.recv()
            start = time.monotonic()
            ids = [c.token_ids for c in pool.generate(prompts)]
            rate = sum(map(len, ids)) / (time.monotonic() - start)
            assert ids == tokens, "both sampled the same"
            if turn:  # the first warms up
                rates["alone"].append(sum(map(len, tokens)) / seconds)
                rates["pool"].append(rate)
    finally:
        pool.close()
        alone.kill()
    ratios = [b / a for a, b in zip(rates["alone"], rates["pool"], strict=True)]
    return {name: statistics.median(r) for name, r in rates.items()} | {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def _alone(pipe: Any, config: EngineConfig, model: str, stops: Sequence[int]) -> None:
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = str(config.core)
    os.environ["OMP_NUM_THREADS"] = "1"
    from rollout.choose import make_engine

    engine = make_engine(config, model, stops)
    while True:
        prompts = pipe.recv()
        start = time.monotonic()
        completions = engine.generate(prompts)
        pipe.send(([c.token_ids for c in completions], time.monotonic() - start))


def main(arguments: list[str] | None = None) -> int:
    """Print the numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pool", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rollouts", type=int, help="default: 1,000,000; with --model 64")
    parser.add_argument("--rate", type=float, default=9_000.0, help="rollouts a second that end, all workers together")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--step", type=int, default=2048, help="rollouts a step")
    parser.add_argument("--feed", choices=("fixed", "free"), default="free")
    parser.add_argument("--model", type=Path, help="instead: a real engine's tokens a second in a pool against alone")
    parser.add_argument("--data", type=Path, default=HELDOUT, help="with --model: problems")
    parser.add_argument("--max-tokens", type=int, default=96, help="with --model")
    parser.add_argument("--rounds", type=int, default=5, help="with --model")
    options = parser.parse_args(arguments)
    if options.model:
        found = efficiency(options.model, options.data, options.rollouts or 64, options.max_tokens, options.rounds)
        turns = ", ".join(f"{r:.3f}" for r in found["ratios"])
        print(
            f"alone {found['alone']:,.1f} tokens/s, in a pool {found['pool']:,.1f}: ratio {found['ratio']:.3f} ({turns})"
        )
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = measure(
            options.rollouts or 1_000_000, options.rate, options.workers, options.step, options.feed, Path(folder)
        )
    delay, memory = found["delay_ms"], found["memory_mib"]
    print(f"{found['rollouts']:,} rollouts of {found['tokens']:.0f} tokens, {found['per_second']:,.0f} a second")
    print(f"from a rollout's end until the sampler has it: median {delay['median']:.1f} ms, 99 % {delay['99 %']:.1f} ms (of a "
          f"step, in the median), most {delay['most']:.1f} ms; {found['late']:.3%} took longer than {LATE_S * 1e3:g} ms, while "
          f"the machine's owner took {found['taken']:.1%} of our cores' time")  # fmt: skip
    print(f"\nsteps during which it took   rollouts  latest, ms  later than {LATE_S * 1e3:g} ms")
    for row in found["by_taken"]:
        low, high = row["taken"]
        shares = f"{low:.0%} to {high:.0%}" if low else f"less than {high:.0%}"
        print(f"{shares:<27}{row['rollouts']:>10,}{row['most']:>12.1f}{row['late']:>20,}")
    print()
    print("memory: " + ", ".join(f"{mib} MiB after {count:,}" for count, mib in memory))
    return 0


if __name__ == "__main__":
    sys.exit(main())

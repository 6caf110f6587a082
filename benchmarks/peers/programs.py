"""What is compared: the same work by Taut, by TRL and by verl, each in a process (verl: several) and an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rewards.errors import TautError
from rollout.log import read_rollouts
from rollout.paths import locate
from trainers.verl.command import ENVIRONMENT, overrides
from trainers.verl.command import main as verl_rows

ROOT = Path(__file__).parents[2]
ROOM = 256  # tokens of a prompt for which vLLM keeps room
RARE = ("<unk>", "<file_sep>")  # tokens that no model samples in practice


@dataclass(frozen=True)
class Work:
    """A model folder, problems, and a step's size. cap: most tokens of a rollout. steps: timed ones. batch: sequences that go
    through the model at once in the update. lr: small enough that lengths do not drift while they are timed."""

    model: str
    data: str
    prompts: int
    samples: int
    cap: int
    steps: int
    batch: int
    lr: float = 1e-5


@contextmanager
def endless(work: Work) -> Iterator[Work]:
    """The same work by a copy of the model that ends no response by itself: it would have to sample a token that it never does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(work.model, Path(folder) / "model"))
        read = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
        ids = read["model"]["vocab"] | {token["content"]: token["id"] for token in read["added_tokens"]}
        rare = next(token for token in RARE if token in ids)
        for name in ("config.json", "generation_config.json"):
            _rewrite(copy / name, {"eos_token_id": ids[rare]})
        old = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
        more = {}
        if "chat_template" in old:
            more = {"chat_template": old["chat_template"].replace(old["eos_token"], "")}
        _rewrite(copy / "tokenizer_config.json", {"eos_token": rare, **more})
        if (template := copy / "chat_template.jinja").exists():
            text = template.read_text(encoding="utf-8")
            template.write_text(text.replace(old["eos_token"], ""), encoding="utf-8")
        yield replace(work, model=str(copy))


def _rewrite(file: Path, values: dict[str, object]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


def taut(work: Work, threads: int, *more: str) -> dict[str, float]:
    """Seconds of a step by phase, tokens of a step, of a prompt, and the process' peak memory in MiB, by `taut train`.

    verify: what judging took once sampling had ended. more: further settings.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "model": work.model, "data": work.data, "out": f"{folder}/run", "steps": 1 + work.steps,
            "prompts": work.prompts, "sampling.samples": work.samples, "sampling.max_tokens": work.cap,
            "prompt.template": "'{problem}'", "verifier.arithmetic": "false", "objective.clip_high": 0.28,
            "advantage": "dr_grpo", "optim.lr": work.lr, "rollout.engine": "transformers", "checkpoint.every": 10**6,
            "micro_tokens": work.batch * (work.cap + 32), "seed": 0,
        }  # fmt: skip
        command = [sys.executable, "-m", "taut", "train", *(f"{key}={value}" for key, value in settings.items()), *more]
        memory = _run(command, threads)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines][1:]
        logged = read_rollouts(Path(folder) / f"run/rollouts/step-{1 + work.steps:06d}.parquet")
        prompt = statistics.mean(map(len, logged.columns["prompt_ids"]))
    out = {
        "memory": memory,
        "tokens": statistics.median(row["tokens"] * row["rollouts"] for row in rows),
        "prompt": prompt,
    }
    named = {"sample": ("sample",), "score": ("reward",), "update": ("policy", "update"), "sync": ("sync",)}
    for phase, parts in (named | {"log": ("log",), "verify": ("verify",)}).items():
        out[phase] = statistics.median(sum(row[f"time/{part}"] for part in parts) for row in rows)
    # the last step also writes the final checkpoint, which no other does
    out["step"] = statistics.median(row["time/step"] - row.get("time/checkpoint", 0.0) for row in rows)
    out["mean"] = statistics.mean(row["time/step"] - row.get("time/checkpoint", 0.0) for row in rows)
    return out | {"rest": out["step"] - sum(out[phase] for phase in named)}


def taut_vllm(work: Work, threads: int) -> dict[str, float]:
    """`taut` with vLLM in the trainer's process."""
    return taut(work, threads, "rollout.engine=vllm", f"rollout.max_model_len={ROOM + work.cap}")


def trl_vllm(work: Work, threads: int) -> dict[str, float]:
    """`trl` with vLLM in the trainer's process.

    TRL's own weight sync fails on vLLM's CPU build (parameters that were repacked cannot be loaded one by one), so it is
    replaced by what Taut does; its correction for vLLM's log-probs, which would cost it a pass, is off as in Taut. vLLM
    comes from the main environment, whose versions are the same."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    more = {
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    return trl(work, threads, more)


def trl(work: Work, threads: int, vllm: dict[str, str] | None = None) -> dict[str, float]:
    """The same by TRL's GRPOTrainer. vllm: sample with vLLM, in this environment."""
    python = ROOT / ".venv-trl" / "bin" / "python"
    if not python.exists():
        raise TautError(f"{python}: TRL's environment is not there; `python3 bootstrap.py test` makes it")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        given = {**asdict(work), "data": str(locate(work.data)), "out": str(out), "vllm": vllm and ROOM + work.cap}
        memory = _run([str(python), "-m", "benchmarks.peers.trl_step", json.dumps(given)], threads, vllm)
        return {**json.loads(out.read_text(encoding="utf-8")), "memory": memory}


def verl(work: Work, threads: int) -> dict[str, float]:
    """The same by verl's stock trainer, which has no rollouts for a CPU of its own: it samples with Taut's engine. Its memory
    is that of several processes and not measured (NaN)."""
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "train.parquet"
        verl_rows([f"data={work.data}", f"out={rows}", "template={problem}"])
        own = {
            "data.train_files": rows, "data.val_files": rows, "data.train_batch_size": work.prompts,
            "data.max_prompt_length": 256, "data.max_response_length": work.cap, f"{rollout}.n": work.samples,
            f"{rollout}.temperature": 1, f"{actor}.ppo_mini_batch_size": work.prompts, f"{actor}.optim.lr": work.lr,
            f"{actor}.ppo_micro_batch_size_per_gpu": work.batch, f"{actor}.clip_ratio_high": 0.28,
            f"{rollout}.log_prob_micro_batch_size_per_gpu": work.batch, "actor_rollout_ref.model.path": work.model,
            "hydra.run.dir": f"{folder}/hydra", "+taut.out": f"{folder}/taut", "trainer.val_before_train": False,
            "trainer.default_local_dir": f"{folder}/checkpoints", "trainer.nnodes": 1, "trainer.save_freq": -1,
            "trainer.test_freq": -1, "trainer.total_training_steps": 1 + work.steps, "trainer.total_epochs": 1000,
            "trainer.logger": "[file]",
        }  # fmt: skip
        recipe = ["verifier.arithmetic=false", "advantage=dr_grpo"]
        lines = overrides(recipe, True, [f"{key}={value}" for key, value in own.items()])
        log = f"{folder}/log.jsonl"
        more = {**ENVIRONMENT, "VERL_FILE_LOGGER_PATH": log, "RAY_TMPDIR": "/tmp"}
        _run([sys.executable, "-m", "verl.trainer.main_ppo", *lines], threads, more)
        found = [json.loads(line)["data"] for line in Path(log).read_text(encoding="utf-8").splitlines()][1:]

    def of(*names: str) -> float:
        return statistics.median(sum(row.get(f"timing_s/{name}", 0.0) for name in names) for row in found)

    out = {
        "sample": of("gen"),
        "score": of("reward", "adv"),
        "update": of("old_log_prob", "update_actor"),
        "sync": of("update_weights"),
        "step": of("step"),
        "tokens": statistics.median(row["response_length/mean"] * work.prompts * work.samples for row in found),
        "memory": float("nan"),
    }
    return out | {"rest": out["step"] - sum(out[phase] for phase in ("sample", "score", "update", "sync"))}


def _run(command: Sequence[str], threads: int, more: dict[str, str] | None = None) -> float:
    """Run a command on so many threads; its peak memory in MiB. Raises TautError with what it said."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    environment = {**os.environ, **(more or {}), **{name: str(threads) for name in names}}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(list(command), cwd=ROOT, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            said.seek(0)
            raise TautError(f"{' '.join(command[:4])} failed:\n{said.read()[-3000:]}")
    return usage.ru_maxrss / 1024

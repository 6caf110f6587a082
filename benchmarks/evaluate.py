"""Measure a model: k samples a problem at the training temperature, judged, with intervals over problems.

taut eval model=runs/train/model samples=4 out=eval.parquet         # a run's model: prompt, data, cap and verifier as in the run
taut eval model=FOLDER data=FILE.jsonl samples=8 max_tokens=2048    # any Hugging Face folder
taut eval model=FOLDER data=FILE.jsonl samples=16 reference=REF.jsonl  # then: taut train ... data=FILE.jsonl reference=REF.jsonl
taut eval                                                           # the embedded benchmark's base model
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.evaluation_report import extra_tables, level_table, report, write_report
from benchmarks.statistics import CONFIDENCE, Samples
from rewards.errors import TautError
from rewards.progress import Progress
from rollout.engine import EngineConfig
from rollout.paths import locate
from rollout.sampling import PLANS
from trainers.config import PromptConfig, VerifierConfig, merge, parse_override, read_yaml, recipe, resolve, set_dotted

COLUMNS = ("problem_id", "level", "sample_id", "length", "verdict", "truncated", "reason", "text")


class EvaluateConfig(BaseModel):
    """What `taut eval` takes as key=value. `seed` with a problem's place decides every draw, whatever the model."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = Field(description="a Hugging Face folder, or a run folder (then its final model)")
    data: str = Field(description="JSONL or parquet with id, problem, answer")
    out: str = Field(
        "eval.parquet", description="one row a sample; must not exist yet. All numbers go beside it, as .json"
    )
    columns: dict[str, str] = Field(
        default={}, description="our column names and the file's, where they differ: {problem: question}"
    )
    unverifiable: Literal["refuse", "drop"] = Field(
        default="refuse", description="problems whose gold answer the verifier cannot parse"
    )
    problems: int | None = Field(None, ge=1, description="the first so many problems of the file; None: all")
    samples: int = Field(4, ge=1, description="responses a problem")
    temperature: float = Field(1.0, gt=0)
    max_tokens: int = Field(1024, ge=1)
    seed: int = Field(0, ge=0)
    budget: int | None = Field(None, ge=1, description="told in the prompt, where its template has {budget}")
    prompt: PromptConfig = PromptConfig()
    rollout: EngineConfig = EngineConfig()
    verifier: VerifierConfig = VerifierConfig()
    reference: str | None = Field(
        None,
        description="also write accuracy and mean length by problem to this .jsonl file: taut train reference=FILE",
    )


def load_evaluate_config(arguments: Sequence[str]) -> EvaluateConfig:
    """The config of `taut eval ARGUMENTS` (key=value; `--key value` means the same). Raises TautError.

    Where the model is a run's, prompt, held-out data, temperature, engine and, of its last step, cap and budget told are the
    run's unless they are given.
    """
    pairs = [parse_override(a) for a in as_pairs(arguments)]
    model = next((str(value) for keys, value in reversed(pairs) if keys == ["model"]), None)
    values = _defaults(model)
    for keys, value in pairs:
        if keys != ["model"]:
            set_dotted(values, keys, value)
    return resolve(EvaluateConfig, values, "taut eval")


def as_pairs(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--key value` and `--key=value` as key=value. Raises TautError where the value is missing."""
    pairs, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            pairs.append(argument)
        elif "=" in argument or rest:
            pairs.append(argument[2:] if "=" in argument else f"{argument[2:]}={rest.pop(0)}")
        else:
            raise TautError(f"{argument}: a value is missing; write {argument} VALUE")
    return pairs


def _defaults(model: str | None) -> dict[str, Any]:
    """Settings that follow from the model: the embedded benchmark's, those of the run it belongs to, or none."""
    if model is None:
        run = recipe("overthinker")
        return _of_run(run, run["model"])
    path = Path(model)
    if (path / "config.yaml").is_file() and not (path / "config.json").is_file():
        if not (path / "model").is_dir():
            raise TautError(f"model={model}: this run has no final model yet; finish it: taut train resume={model}")
        path = path / "model"
    if path.name == "model" and (path.parent / "config.yaml").is_file():
        return _of_run(read_yaml(path.parent / "config.yaml"), str(path))
    embedded = recipe("overthinker")
    return _of_run(embedded, model) if model == embedded["model"] else {"model": model}


def _of_run(run: dict[str, Any], model: str) -> dict[str, Any]:
    values: dict[str, Any] = {"model": model, **{key: run.get(key) or {} for key in ("prompt", "rollout", "verifier")}}
    held = run.get("heldout") or {}
    data, columns = held.get("data"), held.get("columns")
    found: dict[str, Any] = {"data": data}
    if run.get("sampling"):  # cap and budget as in the run's last step; of a cap that moved with what it saw, the first
        plan, steps = PLANS.build({"type": "group"} | run["sampling"]), int(run.get("steps") or 1)
        last = Progress(steps - 1, steps, 1, int(run.get("seed") or 0))
        found |= {"max_tokens": plan.cap(last), "budget": plan.told_budget(last)}
    found["columns"] = run.get("columns") if columns is None else columns
    found["temperature"] = values["rollout"].get("temperature")
    return merge(values, {key: value for key, value in found.items() if value is not None})


def evaluate(config: EvaluateConfig, say: Callable[[str], None] = print) -> Path:
    """Sample, judge and write `config.out` (one row a sample: COLUMNS and more); its path. Raises TautError."""
    out = Path(config.out)
    if out.exists():
        raise TautError(f"out={out}: exists already; remove it or choose another `out`")
    if out.suffix == ".json":
        raise TautError(f"out={out}: the numbers go to this name; name the samples .parquet")
    if config.reference is not None and not config.reference.endswith(".jsonl"):
        raise TautError(f"reference={config.reference}: it is written as JSON lines; name it .jsonl")
    from rewards.verifier import Verifier
    from rollout.engine import make_engine
    from rollout.log import write_rollouts
    from rollout.problems import load_problems
    from rollout.prompts import PromptTemplate, load_tokenizer, stop_ids
    from rollout.sampler import Sampler, heldout_requests, to_batch

    judged_by = vars(config.verifier)
    problems = load_problems(locate(config.data), config.problems, config.columns, config.unverifiable, judged_by)
    path = locate(config.model)
    tokenizer = load_tokenizer(path)
    stops, warnings = stop_ids(tokenizer, *_model_configs(path))
    for warning in warnings:
        say(f"warning: {warning}")
    template = PromptTemplate(tokenizer, config.prompt.template, config.prompt.system)
    requests = heldout_requests(problems, template, config.samples, config.max_tokens, config.budget)
    settings = config.rollout.model_copy(update={"temperature": config.temperature})
    engine = make_engine(settings, str(path), stops)
    say(
        f"{config.model}: {len(problems)} problems × {config.samples} samples at T = {config.temperature:g}, "
        f"at most {config.max_tokens} tokens, engine {engine.name}"
    )
    rollouts, began = [], time.monotonic()
    with Verifier(**vars(config.verifier)) as verifier:
        sampler = Sampler(engine, template, verifier, stops, config.seed)
        try:
            chunk = max(
                512, 2 * settings.max_num_seqs
            )  # large enough to keep an engine busy, small enough to show progress
            for start in range(0, len(requests), chunk):
                rollouts += sampler(requests[start : start + chunk])
                tokens, seconds = sum(len(r.token_ids) for r in rollouts), time.monotonic() - began
                left = seconds / len(rollouts) * (len(requests) - len(rollouts))
                say(f"{len(rollouts)}/{len(requests)} samples, {tokens / seconds:,.0f} tokens/s, ETA {left:.0f} s")
        finally:
            engine.close()
    meta = {"kind": "evaluation", "engine": engine.name, **config.model_dump(mode="json", exclude={"rollout", "out"})}
    write_rollouts(out, rollouts, to_batch(rollouts), meta)
    if config.reference is not None:
        made_by = {key: value for key, value in meta.items() if key not in ("kind", "verifier", "reference")}
        write_reference(Path(config.reference), problems, read_evaluation(out)[0], made_by)
    return out


def _model_configs(path: Path) -> tuple[Any, Any]:
    """(config, generation config or None) of a model folder."""
    from transformers import AutoConfig, GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(path)
    except OSError:
        generation = None
    return AutoConfig.from_pretrained(path), generation


def write_reference(path: Path, problems: Sequence[Any], samples: Samples, made_by: Mapping[str, Any]) -> None:
    """What the model did on each problem, for methods that compare with it (`taut train reference=FILE`).

    JSON lines: {"_meta": `made_by`} first (model, data, samples, temperature, cap, seed), then a line a problem, {"id",
    "accuracy", "length" (mean output tokens), "samples", "correct"}. Samples with unknown verdicts are left out of all four;
    a problem without known ones has null for accuracy and length.
    """
    from rollout.log import write_atomically

    known = samples.take(samples.known)
    position = {p.id: i for i, p in enumerate(problems)}
    index = np.array([position[id] for id in known.problem_id], dtype=int)
    count = np.bincount(index, minlength=len(problems))
    right = np.bincount(index, np.asarray(known.verdict == 1, dtype=float), len(problems))
    length = np.bincount(index, np.asarray(known.length, dtype=float), len(problems))
    rows: list[dict[str, Any]] = [{"_meta": dict(made_by)}]
    for p, n, c, tokens in zip(problems, count.tolist(), right.tolist(), length.tolist(), strict=True):
        accuracy, mean = (c / n, tokens / n) if n else (None, None)
        rows.append({"id": p.id, "accuracy": accuracy, "length": mean, "samples": n, "correct": int(c)})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, lambda temporary: temporary.write_text(lines, encoding="utf-8"))


def read_evaluation(path: Path) -> tuple[Samples, dict[str, Any]]:
    """(samples, what the file says of how they were made) of an evaluation parquet; {} where it says nothing.

    Raises TautError naming the file and the remedy when it is torn, lacks a column or holds a sample twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = [c for c in (*COLUMNS[:6], "source", "answer") if c in file.schema_arrow.names]
            raw = (file.schema_arrow.metadata or {}).get(b"taut", b"{}")
            columns = {name: column.to_pylist() for name, column in zip(names, file.read(names).columns, strict=True)}
    except (pa.ArrowException, OSError) as error:
        raise TautError(f"{path}: cannot be read as parquet ({error}); is the file complete? Evaluate again") from error
    if missing := [c for c in ("problem_id", "length", "verdict") if c not in columns]:
        raise TautError(f"{path}: no column {', '.join(missing)}; an evaluation has {', '.join(COLUMNS)}")
    if "sample_id" in columns:
        seen: dict[tuple[Any, Any], int] = {}
        for row, key in enumerate(zip(columns["problem_id"], columns["sample_id"], strict=True), 1):
            if key in seen:
                told = f"sample {key[1]} of problem {key[0]!r} stands in rows {seen[key]} and {row}"
                raise TautError(f"{path}: {told}; each sample must stand there once: evaluate again")
            seen[key] = row
    columns.pop("sample_id", None)
    for name, column in columns.items():
        if name not in ("verdict", "answer", "source") and None in column:
            raise TautError(f"{path}: row {column.index(None) + 1} has no {name}; evaluate again")
    return Samples(**{name: np.array(column, dtype=object) for name, column in columns.items()}), json.loads(raw)


def main(argv: Sequence[str] | None = None) -> int:
    """`taut eval key=value ...`: evaluate, write the parquet and, beside it, every number as .json; print the tables."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        fields = EvaluateConfig.model_fields.items()
        print(__doc__, *(f"  {k:<12} {f.description or ''} (default: {f.default})" for k, f in fields), sep="\n")
        return 0
    config = load_evaluate_config(arguments)
    out = evaluate(config)
    samples, _ = read_evaluation(out)
    parts = report(samples)
    numbers = out.with_suffix(".json")
    write_report(numbers, parts)
    print(f"{level_table(samples)}\n\n{extra_tables(parts)}")
    print(f"brackets: {CONFIDENCE:.0%} intervals over problems; every number with its interval: {numbers}")
    if config.reference:
        print(config.reference)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

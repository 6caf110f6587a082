"""Measure a model: k samples a problem at the training temperature, judged, with intervals over problems.

taut eval model=runs/train/model samples=4 out=eval.parquet         # a run's model: prompt, data, cap and verifier as in the run
taut eval model=FOLDER data=FILE.jsonl samples=8 max_tokens=2048    # any Hugging Face folder
taut eval model=FOLDER data=FILE.jsonl samples=16 reference=REF.jsonl  # then: taut train ... data=FILE.jsonl reference=REF.jsonl
taut eval model=FOLDER data=A.jsonl,B.jsonl                         # several sets: the tables tell them apart
taut eval runs/a runs/b models/c data=FILE.jsonl out=evals          # several models, one after the other: evals/a.parquet ...
taut eval strategy=majority                                         # or filtered_vote, refine, pdr: benchmarks/strategies.py
taut eval                                                           # the embedded benchmark's base model

Killed, the same command goes on where it stopped (OUT.parts holds what is done).
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from benchmarks.analyses.length_vote import LengthVote
from benchmarks.arguments import as_pairs, positional
from benchmarks.evaluation_file import Parts, mark, read_evaluation, read_lines, write_reference
from benchmarks.evaluation_report import (
    extra_tables,
    level_table,
    report,
    strategy_report,
    strategy_table,
    write_report,
)
from benchmarks.statistics import CONFIDENCE
from benchmarks.strategies import Name as Strategy
from benchmarks.strategies import Pdr, Refine, calls
from rewards.errors import TautError
from rewards.progress import Progress
from rollout.engine import EngineConfig
from rollout.paths import locate
from rollout.sampling import PLANS
from trainers.config import PromptConfig, VerifierConfig
from trainers.settings import merge, parse_override, read_yaml, recipe, resolve, set_dotted

FEWEST = 512  # calls of a first round between two saves, at least: enough to keep an engine busy


class EvaluateConfig(BaseModel):
    """What `taut eval` takes as key=value. `seed` with a problem's place decides every draw, whatever the model."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = Field(description="a Hugging Face folder, or a run folder (then its final model)")
    data: str = Field(description="JSONL or parquet with id, problem, answer; several: FILE,FILE")
    out: str = Field(
        "eval.parquet", description="one row a sample; must not exist yet. All numbers go beside it, as .json"
    )
    columns: dict[str, str] = Field(
        default={}, description="our column names and the file's, where they differ: {problem: question}"
    )
    unverifiable: Literal["refuse", "drop"] = Field(
        default="refuse", description="problems whose gold answer the verifier cannot parse"
    )
    problems: int | None = Field(None, ge=1, description="the first so many problems of each file; None: all")
    samples: int = Field(4, ge=1, description="responses a problem")
    temperature: float = Field(1.0, gt=0)
    max_tokens: int = Field(1024, ge=1)
    seed: int = Field(0, ge=0)
    budget: int | None = Field(None, ge=1, description="told in the prompt, where its template has {budget}")
    prompt: PromptConfig = PromptConfig()
    rollout: EngineConfig = EngineConfig()
    verifier: VerifierConfig = VerifierConfig()
    strategy: Annotated[Strategy | None, BeforeValidator(lambda v: None if v == "plain" else v)] = Field(
        None, description="plain (None), majority, filtered_vote, refine or pdr"
    )
    vote: LengthVote | None = Field(None, description="strategy=filtered_vote: width (of a length bin, in tokens) ...")
    refine: Refine | None = Field(None, description="strategy=refine: rounds, shown, prompt")
    pdr: Pdr | None = Field(None, description="strategy=pdr: drafts, rounds, shown, workspace, distill, prompt")
    reference: str | None = Field(
        None,
        description="also write accuracy and mean length by problem to this .jsonl file: taut train reference=FILE",
    )

    @model_validator(mode="after")
    def _strategy_fits(self) -> EvaluateConfig:
        for name, of in (("vote", "filtered_vote"), ("refine", "refine"), ("pdr", "pdr")):
            if getattr(self, name) is not None and self.strategy != of:
                raise ValueError(
                    f"{name}: a setting of a strategy that is not chosen; add strategy={of}, or leave it out"
                )
        if self.strategy == "filtered_vote" and self.vote is None:
            raise ValueError("strategy=filtered_vote: give vote.width=TOKENS, the width of a length bin")
        if self.strategy is not None and self.reference is not None:
            raise ValueError(f"reference={self.reference}: made of single answers; leave strategy={self.strategy} out")
        return self

    @property
    def rounds(self) -> Refine | Pdr | None:
        """What comes after the first round; None: nothing."""
        return (
            (self.refine or Refine())
            if self.strategy == "refine"
            else (self.pdr or Pdr())
            if self.strategy == "pdr"
            else None
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
    from rollout.choose import make_engine
    from rollout.problems import load_problem_sets
    from rollout.prompts import PromptTemplate, load_tokenizer, model_configs, stop_ids
    from rollout.sampler import Sampler, heldout_requests

    judged_by = vars(config.verifier)
    problems = load_problem_sets(config.data, config.problems, config.columns, config.unverifiable, judged_by)
    if len(problems) < 2:
        say(f"warning: data={config.data}: one problem; no interval can be made from it, give two or more")
    path = locate(config.model)
    tokenizer = load_tokenizer(path)
    stops, warnings = stop_ids(tokenizer, *model_configs(path))
    for warning in warnings:
        say(f"warning: {warning}")
    template = PromptTemplate(tokenizer, config.prompt.template, config.prompt.system)
    how = config.rounds
    each = config.samples * (how.drafts if isinstance(how, Pdr) else 1)  # calls of a problem's first round
    requests = heldout_requests(problems, template, each, config.max_tokens, config.budget)
    settings = config.rollout.model_copy(update={"temperature": config.temperature})
    made = config.model_dump(mode="json", exclude={"out", "reference"}) | mark(problems, path)
    parts = Parts(out, made)
    parts.begin()
    chunk = each * max(1, max(FEWEST, 2 * settings.max_num_seqs) // each)  # whole problems
    starts = range(0, len(requests), chunk)
    sizes = [parts.size(number) for number in range(len(starts))]
    if any(size is not None for size in sizes):
        say(f"going on: {sum(size or 0 for size in sizes)} calls are in {parts.folder}")
    engine = make_engine(settings, str(path), stops)
    say(
        f"{config.model}: {len(problems)} problems × {config.samples} samples at T = {config.temperature:g}, "
        f"at most {config.max_tokens} tokens, engine {engine.name}"
        + (f", {config.strategy}" if config.strategy else "")
    )
    first, tokens, began = 0, 0, time.monotonic()
    with Verifier(**vars(config.verifier)) as verifier:
        sampler = Sampler(engine, template, verifier, stops, config.seed)
        try:
            for number, start in enumerate(starts):
                if sizes[number] is not None:
                    continue
                asked = requests[start : start + chunk]
                done = calls(asked, sampler, template, how)
                parts.write(number, done)
                first += len(asked)
                tokens += sum(len(call.rollout.token_ids) for call in done)
                seconds = time.monotonic() - began
                rest = sum(
                    len(requests[s : s + chunk]) for n, s in enumerate(starts) if n > number and sizes[n] is None
                )
                say(
                    f"{start + len(asked)}/{len(requests)} samples, {tokens / seconds:,.0f} tokens/s, "
                    f"ETA {seconds / first * rest:.0f} s"
                )
        finally:
            engine.close()
    meta = {"kind": "evaluation", "engine": engine.name, **config.model_dump(mode="json", exclude={"rollout", "out"})}
    parts.join(len(starts), meta)
    if config.reference is not None:
        made_by = {key: value for key, value in meta.items() if key not in ("kind", "verifier", "reference")}
        write_reference(Path(config.reference), problems, read_evaluation(out)[0], made_by)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """`taut eval [MODEL ...] key=value ...`: evaluate, write the parquet and, beside it, all numbers as .json; print tables."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        fields = EvaluateConfig.model_fields.items()
        print(__doc__, *(f"  {k:<12} {f.description or ''} (default: {f.default})" for k, f in fields), sep="\n")
        return 0
    models, settings = positional(arguments)
    if not models:
        return _evaluate_one(load_evaluate_config(settings))
    folder = Path(next((a[4:] for a in reversed(settings) if a.startswith("out=")), "evals"))
    names = [
        re.sub(r"[^\w.+-]+", "-", Path(m).parent.name if Path(m).name == "model" else Path(m).name) for m in models
    ]
    if len(set(names)) < len(names):
        raise TautError(
            f"{' '.join(models)}: two of them are called {names[0]}; evaluate them one by one, with out=FILE"
        )
    configs = [
        load_evaluate_config([*settings, f"model={model}", f"out={folder / name}.parquet"])
        for model, name in zip(models, names, strict=True)
    ]
    for config in configs:
        print(f"\n{config.model}")
        if _made(config):
            print(f"finished before: {config.out}")
        elif code := _evaluate_one(config):
            return code
    print(f"all of them on one front: taut pareto {' '.join(c.out for c in configs)}")
    return 0


def _made(config: EvaluateConfig) -> bool:
    """Whether this very evaluation is there; one with other settings is an error when it is begun."""
    if not Path(config.out).exists():
        return False
    made = read_evaluation(Path(config.out))[1]
    wanted = config.model_dump(mode="json", exclude={"rollout", "out", "reference"})
    return all(made.get(key) == value for key, value in wanted.items())


def _evaluate_one(config: EvaluateConfig) -> int:
    """Evaluate, write, print; 130 where interrupted."""
    try:
        out = evaluate(config)
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on from {config.out}.parts")
        return 130
    samples, _ = read_evaluation(out)
    parts, strategy = report(samples), strategy_report(read_lines(out))
    numbers = out.with_suffix(".json")
    write_report(numbers, parts, strategy)
    if strategy:
        print(f"{strategy_table(strategy)}\n\nof the last line, with total tokens:\n")
    print(f"{level_table(samples)}\n\n{extra_tables(parts)}")
    print(f"brackets: {CONFIDENCE:.0%} intervals over problems; every number with its interval: {numbers}")
    if config.reference:
        print(config.reference)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

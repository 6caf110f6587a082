"""Taut's problem files as verl's rows: a parquet file with prompt, data_source, reward_model.ground_truth and extra_info."""

from __future__ import annotations

from pathlib import Path

from rollout.log import write_atomically
from rollout.paths import locate
from rollout.problems import load_problems
from rollout.prompts import DEFAULT_TEMPLATE
from trainers.seams import DATA


def write_rows(
    data: str, out: Path, *, template: str = DEFAULT_TEMPLATE, count: int | None = None, origin: str = "train"
) -> int:
    """Write the first `count` problems of a file; the number of rows. origin: "monitor" for problems that a reward watches.

    Raises TautError for a file that holds no problems, or that cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    problems = load_problems(locate(data), count)
    rows = [
        {
            "data_source": p.source or "taut",
            "prompt": [{"role": "user", "content": template.replace("{problem}", p.problem)}],
            "reward_model": {"style": "rule", "ground_truth": p.answer},
            "extra_info": {
                "id": p.id, "index": i, "problem": p.problem, "level": p.level, "origin": origin,
                **{name: p.extra[name] for name in DATA if p.extra.get(name) is not None},
            },
        }
        for i, p in enumerate(problems)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows)
    write_atomically(out, lambda temporary: pq.write_table(table, temporary))
    return len(rows)

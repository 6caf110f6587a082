"""The verifier as a service: futures, streams, event loops, actors, forks, judges of one's own, audits; nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewards import TautError, Verdict
from rewards.verifier import Judgement, Verifier, check_golds
from rewards.verifier.audit import Audit, Case, begin_audit, finish_audit
from rewards.verifier.memo import LONG, Memo, key_of
from rewards.verifier.process import Closed, Limits, Reply, Server, Worker
from rollout.paths import locate
from rollout.problems import load_problems
from rollout.prompts import PromptTemplate, load_tokenizer
from rollout.sampler import Sampler
from rollout.types import Completion, Problem, Request, Rollout
from trainers.config import TrainConfig
from trainers.monitor import log_disagreements, verify_metrics
from trainers.settings import load_config

ROOT = Path(__file__).resolve().parents[1]
HANG = "(1+9)^{(10+1)^{10}}"  # gets past the guards; its value has 10^10 digits
RIGHT, WRONG, UNKNOWN = Verdict.CORRECT, Verdict.WRONG, Verdict.UNKNOWN
HARD = ("x", r"\boxed{2x-x}", "stop", False)
EASY = ("1", r"\boxed{1}", "stop", False)
HANGS = ("5", f"\\boxed{{{HANG}}}", "stop", False)


@pytest.fixture(autouse=True)
def _on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is the wall clock's, however little of a core the tests get."""
    monkeypatch.setattr("rewards.verifier.process.STARVED", 0.0)


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as shared:
        yield shared


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_end(pids: list[int], within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


# ---- futures, streams, event loops ---------------------------------------------------------------------------------


def test_a_stream_gives_each_verdict_when_it_is_known() -> None:
    taken = []

    def items() -> Iterator[tuple[str, str, str, bool]]:
        for i, item in enumerate([HANGS, EASY, HARD, EASY]):
            taken.append(i)
            yield item

    with Verifier(timeout_s=1.0, workers=2) as mine:
        mine.verify_many([HARD])
        stream = mine.stream(items())
        assert next(stream)[0] == 1, "the easy one does not wait for the hang"
        assert taken == [0, 1], "items are taken as they are wanted"
        rest = list(stream)
    assert {i for i, _ in rest} == {0, 2, 3} and rest[-1][0] == 0
    assert {i: j.verdict for i, j in rest} == {0: UNKNOWN, 2: RIGHT, 3: RIGHT}


def test_a_future_is_done_at_once_unless_a_process_decides(verifier: Verifier) -> None:
    assert verifier.submit(*EASY).done()
    future = verifier.submit("x", r"\boxed{5x-4x}")
    assert not future.cancel() and future.result().verdict is RIGHT


def test_the_same_question_is_asked_once_however_many_ask_it() -> None:
    with Verifier(timeout_s=1.0) as mine:
        mine.verify_many([HARD])
        mine.take_counts()
        start = time.monotonic()
        judgements = mine.verify_many([HANGS] * 8)
        assert time.monotonic() - start < 2.5
        assert {(j.verdict, j.reason) for j in judgements} == {(UNKNOWN, "timeout")}
        counts = mine.take_counts()
        assert (counts.verdicts, counts.memo_hits, counts.reasons["timeout"]) == (8, 7, 8)
        assert 1.0 <= counts.slowest < 2.0
        mine.verify(*HANGS)
        assert mine.take_counts().memo_hits == 1, "a timeout is remembered"


def test_an_event_loop_goes_on_while_a_process_decides() -> None:
    async def judge(mine: Verifier) -> tuple[list[Judgement], int]:
        beats, ended = 0, asyncio.Event()

        async def beat() -> None:
            nonlocal beats
            while not ended.is_set():
                beats += 1
                await asyncio.sleep(0.01)

        heart = asyncio.create_task(beat())
        judgements = await asyncio.gather(*(mine.averify(*item) for item in (HANGS, HARD, EASY)))
        ended.set()
        await heart
        return judgements, beats

    with Verifier(timeout_s=1.0) as mine:
        mine.verify_many([HARD])
        judgements, beats = asyncio.run(judge(mine))
    assert [j.verdict for j in judgements] == [UNKNOWN, RIGHT, RIGHT]
    assert beats > 10


def test_counts_tell_every_reason(verifier: Verifier) -> None:
    verifier.take_counts()
    cases = [
        EASY,
        EASY,
        ("1", "none", "stop", False),
        ("1", r"\boxed{1}", "length", False),
        ("2", r"\boxed{3}", "stop", False),
    ]
    verifier.verify_many(cases)
    counts = verifier.take_counts()
    assert counts.reasons == {"string": 2, "no box": 1, "truncated": 1, "number": 1}
    assert counts.memo_hits >= 1 and 0 < counts.slowest <= counts.seconds
    assert verifier.take_counts().verdicts == 0


def test_the_memo_is_bounded_and_forgets_what_was_not_used() -> None:
    memo = Memo(2)
    for gold in "ab":
        memo.put((gold, "1"), (RIGHT, "string"))
    assert memo.get(("a", "1")) == (RIGHT, "string")
    memo.put(("c", "1"), (WRONG, "number"))
    assert len(memo) == 2 and memo.get(("b", "1")) is None and memo.get(("a", "1")) is not None
    long = key_of("1", "x" * (LONG + 1))
    assert len(long[1]) < 100 and long != key_of("1", "y" * (LONG + 1)) and key_of("1", "\ud800" * (LONG + 1))
    with Verifier(memo=0) as mine:
        mine.verify_many([EASY, EASY])
        assert mine.take_counts().memo_hits == 0


# ---- processes -----------------------------------------------------------------------------------------------------


def test_a_killed_server_is_replaced() -> None:
    with Verifier() as mine:
        mine.verify_many([HARD])
        before = mine.pids()
        os.kill(before[0], signal.SIGKILL)
        assert all_end(before), "its workers end with it"
        assert mine.verify("x", r"\boxed{3x-2x}").verdict is RIGHT
        assert not set(before) & set(mine.pids())


def test_a_question_is_not_charged_for_a_server_that_starts_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its replacement takes longer than the deadline of the question that found the old one dead."""
    with Verifier(timeout_s=1.0) as mine:
        mine.verify_many([HARD])
        fork = Worker._fork

        def slow(worker: Worker) -> None:
            time.sleep(1.2)
            fork(worker)

        monkeypatch.setattr(Worker, "_fork", slow)
        before = mine.pids()
        os.kill(before[0], signal.SIGKILL)
        assert all_end(before)
        assert mine.verify("x", r"\boxed{3x-2x}").reason == "symbolic"


def test_a_server_that_is_killed_as_it_starts_is_replaced() -> None:
    """Shot before it has said that it is there: neither this verdict nor a later one may suffer."""
    with Verifier() as mine:
        first = mine.submit(*HARD)
        while not (pids := mine.pids()):
            time.sleep(0.001)
        os.kill(pids[0], signal.SIGKILL)
        assert first.result(60).verdict is RIGHT and pids[0] not in mine.pids()
        assert mine.verify("x", r"\boxed{3x-2x}").verdict is RIGHT


def test_a_server_that_is_always_killed_is_given_up() -> None:
    over = threading.Event()

    def shoot(mine: Verifier) -> None:
        while not over.is_set():
            for pid in mine.pids()[:1]:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)

    with Verifier() as mine:
        shooter = threading.Thread(target=shoot, args=(mine,))
        shooter.start()
        try:
            with pytest.raises(TautError, match="killed as soon as it starts; is there memory enough"):
                mine.verify(*HARD)
        finally:
            over.set()
            shooter.join()


def test_what_cannot_start_is_tried_once_and_said() -> None:
    with Verifier(memory_gib=0.05, workers=2) as mine:
        futures = [mine.submit("x", f"\\boxed{{{i}x}}") for i in range(2, 100)]
        start = time.monotonic()
        for future in futures:
            with pytest.raises(TautError, match=r"memory_gib=0\.05 is not enough to start with; give more"):
                future.result()
        assert time.monotonic() - start < 20
        assert mine.verify(*EASY).verdict is RIGHT


def test_a_missing_math_verify_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('not here')")
    monkeypatch.syspath_prepend(tmp_path)
    with Verifier() as mine, pytest.raises(TautError, match="not here; is math-verify installed"):
        mine.verify(*HARD)


def test_closing_ends_what_is_under_way() -> None:
    mine = Verifier(timeout_s=30)
    mine.verify_many([HARD])
    futures = [mine.submit(*HANGS), mine.submit("x", r"\boxed{7x-6x}")]
    time.sleep(0.3)
    pids, start = mine.pids(), time.monotonic()
    mine.close()
    assert time.monotonic() - start < 5 and not any(map(alive, pids)) and not mine.pids()
    for future in futures:
        with pytest.raises(Closed):
            future.result(5)
    assert mine.verify("x", r"\boxed{8x-7x}").verdict is RIGHT, "it can be used again"
    mine.close()


def test_no_zombie_stays_when_workers_were_killed() -> None:
    with Verifier(timeout_s=0.5, workers=2) as mine:
        mine.verify_many([HARD, *[("5", f"\\boxed{{{HANG}+{i}}}", "stop", False) for i in range(4)]])
        (server, *workers) = mine.pids()
        kin = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        assert sorted(map(int, kin)) == sorted(workers)
        assert all(map(alive, workers)), "none is a zombie"


def test_a_verifier_without_owner_ends_its_processes() -> None:
    mine = Verifier()
    mine.verify_many([HARD])
    pids = mine.pids()
    del mine
    assert all_end(pids)


def test_a_fork_gets_processes_of_its_own_and_leaves_the_others(verifier: Verifier) -> None:
    verifier.verify_many([HARD])
    before = verifier.pids()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        verdict = verifier.verify("x", r"\boxed{9x-8x}").verdict
        os.write(write, json.dumps([verdict, verifier.pids()]).encode())
        verifier.close()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        verdict, theirs = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert verdict == RIGHT and theirs and not set(theirs) & set(before)
    assert all_end(theirs) and all(map(alive, before)), "closing in the fork ends its own"
    assert verifier.verify("x", r"\boxed{11x-10x}").verdict is RIGHT and verifier.pids() == before


@pytest.mark.parametrize("way", ["interrupt", "crash", "exit", "kill"])
def test_nothing_is_left_however_the_parent_ends(way: str) -> None:
    code = (
        "import os, signal, sys, threading, time; from rewards.verifier import Verifier\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background begins with Ctrl-C ignored
        "v = Verifier(timeout_s=30); v.verify('x', r'\\boxed{2x-x}'); v.submit(sys.argv[1], sys.argv[2])\n"
        "time.sleep(0.3); print(*v.pids(), flush=True)\n"
        f"{'raise ValueError' if way == 'crash' else 'sys.exit()' if way == 'exit' else 'time.sleep(60)'}"
    )
    command = [sys.executable, "-c", code, "5", f"\\boxed{{{HANG}}}"]
    # a group of its own, so that Ctrl-C can be sent to all of it as a terminal does
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, process_group=0
    ) as parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) >= 2
        if way == "interrupt":
            os.killpg(parent.pid, signal.SIGINT)
        elif way == "kill":
            parent.kill()
        parent.wait(20)
    assert all_end(pids, 20)


def test_a_worker_is_renewed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.verifier.process.RENEW", 2)
    with Verifier() as mine:
        seen = set()
        for i in range(2, 8):
            assert mine.verify("x", f"\\boxed{{{i}x-{i - 1}x}}").verdict is RIGHT
            seen |= set(mine.pids()[1:])
        assert len(seen) == 3 and len(mine.pids()) == 2


def test_the_server_ends_a_worker_with_all_that_it_started() -> None:
    server = Server(Limits(5.0, 2.0))
    channel, pid = server.fork()
    assert channel.receive(30) == {"ready": True}
    assert os.getpgid(pid) == pid
    assert server.reap(pid) == -signal.SIGKILL and server.reap(pid) is None
    channel.close()
    server.close()


def test_one_line_in_a_script_that_cannot_be_imported(tmp_path: Path) -> None:
    """As in a notebook: `__main__` has no file. Nothing but numpy and pydantic is imported here."""
    code = (
        "from rewards.verifier import verify; import sys\n"
        "print(verify('42', r'\\boxed{42}').verdict.name, verify('x', r'\\boxed{2x-x}').reason)\n"
        "top = {m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(*sorted(m for m in top if not m.startswith('_')))"
    )
    done = subprocess.run(
        [sys.executable],
        input=code,
        text=True,
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    first, imported = done.stdout.splitlines()
    assert first == "CORRECT symbolic", done.stderr
    allowed = {
        "rewards",
        "numpy",
        "pydantic",
        "pydantic_core",
        "annotated_types",
        "typing_extensions",
        "typing_inspection",
    }
    assert {m for m in imported.split() if "distutils" not in m and "editable" not in m} <= allowed


# ---- a judge of one's own ------------------------------------------------------------------------------------------

JUDGE = """
import os, sys, time
import numpy as np
from rewards import Verdict

def same_word(gold, answer):
    print("a judge may print")
    return {"yes": True, "no": False, "none": None, "one": Verdict.CORRECT, "minus": Verdict.UNKNOWN, "numpy": np.bool_(True),
            "score": 0.5, "text": "correct"}[answer]

def _not_empty(gold):
    return "it has a hash" if "#" in gold else None

same_word.check_gold = _not_empty

def ends(gold, answer):
    if answer == "exit": sys.exit(3)
    if answer == "die": os._exit(3)
    if answer == "eat": bytearray(4 << 30)
    if answer == "sleep": time.sleep(60)
    return True

def _may_sleep(gold):
    if gold == "sleep": time.sleep(60)

ends.check_gold = _may_sleep

def reads(gold, response):
    return gold in response

class Held:
    @staticmethod
    def inside(gold, answer):
        return gold == answer
"""


@pytest.fixture
def judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_judges.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_judges"


def boxed(*answers: str) -> list[tuple[str, str, str, bool]]:
    return [("gold", f"\\boxed{{{a}}}", "stop", False) for a in answers]


def test_a_judge_says_right_wrong_or_nothing(judges: str, caplog: pytest.LogCaptureFixture) -> None:
    with Verifier(judge=f"{judges}:same_word") as mine:
        found = mine.verify_many(boxed("yes", "no", "none", "one", "minus", "numpy", "score", "text", "unheard of"))
        assert [j.verdict for j in found[:6]] == [RIGHT, WRONG, UNKNOWN, RIGHT, UNKNOWN, RIGHT]
        assert {j.reason for j in found[:6]} == {"judge"}
        assert {(j.verdict, j.reason) for j in found[6:]} == {(UNKNOWN, "judge_error")}
        errors = mine.take_counts().judge_errors
        assert errors["KeyError: 'unheard of'"] == 1 and len(errors) == 3
        assert any("returned 0.5; return True, False, None" in message for message in errors)
        assert len([r for r in caplog.records if "failed, so the verdict is unknown" in r.message]) == 1, "said once"
        assert mine.verify("gold", "no box").reason == "no box", "without an answer there is nothing to judge"
        assert mine.verify(*boxed("yes")[0]).verdict is RIGHT and mine.take_counts().memo_hits == 1
        mine.verify(*boxed("unheard of")[0])
        assert mine.take_counts().memo_hits == 0, "an error may pass, so it is not remembered"
        assert mine.check_golds(["a", "b#", " "]) == [
            None,
            f"{judges}:same_word refuses it (it has a hash)",
            "it is empty",
        ]


def test_a_judge_is_held_to_the_limits(judges: str) -> None:
    with Verifier(judge=f"{judges}:ends", timeout_s=1.0, memory_gib=1.0) as mine:
        found = mine.verify_many(boxed("exit", "die", "eat", "sleep", "other"))
        assert [j.reason for j in found] == ["judge_error", "killed", "memory", "timeout", "judge"]
        assert [j.verdict for j in found] == [UNKNOWN] * 4 + [RIGHT]
        assert max(j.seconds for j in found) < 5  # a busy machine is given more than timeout_s


def test_a_judge_may_read_the_response_after_its_thinking(judges: str) -> None:
    with Verifier(judge=f"{judges}:reads", judge_reads="response") as mine:
        assert mine.verify("blue", "<think>red</think>it is blue").verdict is RIGHT
        assert mine.verify("red", "<think>red</think>it is blue").verdict is WRONG
        assert mine.verify("red", "red, so", "length").reason == "truncated"
        assert mine.verify("red", "red", "stop", True).reason == "unclosed thinking"


def test_a_judge_that_cannot_be_used_is_named(judges: str) -> None:
    for name, says in (
        ("nowhere:f", "No module named 'nowhere'"),
        (f"{judges}:gone", "no attribute 'gone'"),
        (f"{judges}:JUDGE", "no attribute 'JUDGE'"),
    ):
        with Verifier(judge=name) as mine, pytest.raises(TautError, match=says) as error:
            mine.verify(*boxed("yes")[0])
        assert f"mend judge={name}" in str(error.value)
    with Verifier(judge=f"{judges}:Held.inside") as mine:
        assert mine.verify("7", r"\boxed{7}").verdict is RIGHT


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"judge": "module"}, "judge='module': write it as module:function"),
        ({"judge_reads": "response"}, "give judge="),
        ({"extraction": "last number"}, "extraction='last number': use one of boxed"),
        ({"memo": -1}, "memo=-1"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(TautError, match=says):
        Verifier(**settings)


def test_settings_reach_the_verifier_from_a_run(judges: str) -> None:
    config = load_config([f"verifier={judges}:same_word"])
    assert config.verifier.judge == f"{judges}:same_word"
    config = load_config(["verifier.extraction=hash", "verifier.memo=7", "verifier.audit=0"])
    with Verifier(**vars(config.verifier)) as mine:
        assert mine.verify("4", "so\n#### 4").verdict is RIGHT and mine.settings["memo"] == 7
    with pytest.raises(TautError, match=r"verifier: .*judge_reads='response'"):
        load_config(["verifier.judge_reads=response"])
    assert set(type(TrainConfig.model_fields["verifier"].default).model_fields) == set(mine.settings)


# ---- golds ---------------------------------------------------------------------------------------------------------


def test_a_gold_that_freezes_its_reader_does_not_stop_the_loading(judges: str) -> None:
    start = time.monotonic()
    found = check_golds(["1", "sleep", "2", "sleep"], timeout_s=1.0, judge=f"{judges}:ends")
    assert time.monotonic() - start < 20
    assert found == [None, why := f"{judges}:ends refuses it (timeout)", None, why]


def test_what_could_be_parsed_once_is_not_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    started: list[int] = []
    fork = Server.fork
    monkeypatch.setattr(Server, "fork", lambda server: (started.append(1), fork(server))[1])
    bad = r"\frac{1}{"
    assert check_golds(["x+1", "1", bad]) == [*check_golds([bad, "x+1"])[1:], None, *check_golds([bad])]
    (file,) = (tmp_path / "taut").iterdir()
    assert len(file.read_text().split()) == 1, "what could not be parsed is looked at again"
    started.clear()
    assert check_golds(["x+1", "$x+1$", "2"]) == [None] * 3 and not started
    file.write_bytes(b"\xff")
    assert check_golds(["x+1"]) == [None] and started, "a broken cache is done without"
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert check_golds(["x+1"]) == [None], "so is one that cannot be written"


def test_rows_are_checked_for_the_judge_that_will_judge_them(judges: str, tmp_path: Path) -> None:
    rows = [{"id": str(i), "problem": "q", "answer": "a#" if i % 2 else "a"} for i in range(60)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TautError, match="it has a hash") as error:
        load_problems(path, verifier={"judge": f"{judges}:same_word"})
    assert str(error.value).count("cannot be verified") == 20
    assert "... and 10 more" in str(error.value) and "30 of 60 rows" in str(error.value)
    with pytest.warns(UserWarning, match="30 of 60 rows dropped"):
        assert len(load_problems(path, unverifiable="drop", verifier={"judge": f"{judges}:same_word"})) == 30


# ---- the audit, and what a step logs -------------------------------------------------------------------------------


def test_the_audit_finds_what_the_fast_path_got_wrong(verifier: Verifier) -> None:
    good = [Case(str(i), "1/2", "0.5", RIGHT, "number") for i in range(3)]
    planted = Case("9", "7", "8", RIGHT, "number")
    others = [Case("10", "5", "6", RIGHT, "choice"), Case("11", "10^{10^{10}}", "10^{10^{10}}", RIGHT, "string")]
    audit = finish_audit(begin_audit(verifier, [*good, planted, *others], "0:1"))
    assert audit.audited == 4 and [c for c, _ in audit.disagreements] == [planted] and audit.disagreement == 0.25
    assert finish_audit([]).disagreement is None
    many = [Case(str(i), "1", "1", RIGHT, "string") for i in range(100)]
    chosen = [
        [c.place for c, _ in begin_audit(verifier, cases, seed)]
        for cases, seed in ((many, "0:1"), (many[::-1], "0:1"), (many, "0:2"))
    ]
    assert len(chosen[0]) == verifier.audit and chosen[0] == chosen[1] != chosen[2]
    with Verifier(audit=0) as silent:
        assert begin_audit(silent, many, "0:1") == [] and not silent.pids()


def test_a_step_logs_reasons_costs_and_disagreements(tmp_path: Path, verifier: Verifier) -> None:
    rollouts = [_rollout(reason) for reason in ("number", "number", "no box", "timeout")]
    verifier.take_counts()
    verifier.verify_many([EASY, EASY])
    case = Case("3", "7", "8", RIGHT, "number")
    audit = Audit(2, [(case, Reply("wrong", "symbolic", "", 0.1))])
    row = verify_metrics(rollouts, verifier.take_counts(), audit)
    assert row["verify/number"] == 0.5 and row["verify/no_box"] == 0.25 and row["verify/timeout"] == 0.25
    assert row["verify/audit_disagreement"] == 0.5 and row["time/verdict_memo_hits"] >= 0.5
    assert 0 < row["time/verdict_mean"] <= row["time/verdict_slowest"]
    path = tmp_path / "verifier_audit.jsonl"
    log_disagreements(path, 1, Audit(2, []))
    assert not path.exists()
    for step in (1, 2, 2, 3, 2):  # the last as after a resume from step 1
        log_disagreements(path, step, audit)
    logged = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["step"] for r in logged] == [1, 2]
    assert logged[0] | {"step": 0} == {
        "step": 0, "sample_id": 3, "gold": "7", "answer": "8", "reason": "number", "verdict": "correct",
        "math_verify": "wrong", "math_verify_reason": "symbolic",
    }  # fmt: skip


def _rollout(reason: str) -> Rollout:
    request = Request(Problem("p", "q", "1"), 0, 0, "q", 9)
    return Rollout(request, (), (), (), "stop", (), "", reason=reason)


def test_rollouts_are_judged_as_they_end(verifier: Verifier) -> None:
    """The engine tells of its completions one by one; the second has its verdict before the engine is done."""
    tokenizer = load_tokenizer(locate("benchmarks:overthinker/checkpoint"))
    template = PromptTemplate(tokenizer, "{problem}")
    ids = tuple(tokenizer.encode("</think>\\boxed{12}", add_special_tokens=False))
    early: list[int] = []

    class Engine:
        version, on_done = 0, None

        def generate(self, prompts: Any, temperature: float | None = None) -> list[Completion]:
            done = [Completion(ids, (0.0,) * len(ids), "stop", (0,) * len(ids)) for _ in prompts]
            verifier.take_counts()
            for i in (1, 0):
                assert self.on_done is not None
                self.on_done([(i, done[i])])
            early.append(verifier.take_counts().verdicts)
            return done

    problems = [Problem(str(i), "6+6", gold) for i, gold in enumerate(("12", "13", "12"))]
    sampler = Sampler(Engine(), template, verifier, [], 0)  # type: ignore[arg-type]
    rollouts = sampler([Request(p, i, i, template.render(p), 9) for i, p in enumerate(problems)])
    assert early == [2]
    assert [r.verdict for r in rollouts] == [RIGHT, WRONG, RIGHT] and sampler.engine.on_done is None
    assert [r.request.problem.id for r in rollouts] == ["0", "1", "2"] and not sampler._begun


# ---- at length -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_ray_actors_of_every_kind() -> None:
    ray = pytest.importorskip("ray")
    from rollout import cluster

    started = cluster.connect(2)
    try:
        made = Verifier(timeout_s=1.0)

        class Plain:
            def __init__(self, verifier: Verifier) -> None:
                self.verifier = verifier

            def judge(self, items: list[tuple[str, str, str, bool]]) -> list[Judgement]:
                return self.verifier.verify_many(items)

            def pids(self) -> list[int]:
                return self.verifier.pids()

        class Async(Plain):
            async def judge(self, items: list[tuple[str, str, str, bool]]) -> list[Judgement]:
                return list(await asyncio.gather(*(self.verifier.averify(*item) for item in items)))

        environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        options = {"num_cpus": 0, "runtime_env": environment}
        actors = [
            ray.remote(Plain).options(**options).remote(made),
            ray.remote(Plain).options(max_concurrency=4, **options).remote(made),
            ray.remote(Async).options(**options).remote(made),
        ]
        calls = [actor.judge.remote([HARD, HANGS, EASY]) for actor in actors for _ in range(2)]
        for found in ray.get(calls, timeout=300):
            assert [(j.verdict, j.reason) for j in found] == [
                (RIGHT, "symbolic"),
                (UNKNOWN, "timeout"),
                (RIGHT, "string"),
            ]
        pids = [pid for actor in actors for pid in ray.get(actor.pids.remote())]
        assert len(pids) >= 6
        for actor in actors:
            ray.kill(actor)
        assert all_end(pids, 30), "killed actors leave nothing"
    finally:
        if started:
            ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_poisoned_batch_costs_its_deadlines_and_little_more(workers: int) -> None:
    deadline, n = 1.0, 1_000

    def batch(tag: int, poisoned: bool) -> list[tuple[str, str, str, bool]]:
        """Half of the answers need algebra; one in a hundred freezes it, where poisoned."""
        out = []
        for i in range(n):
            answer, gold = (f"{i}+{tag}x-{tag - 1}x", f"x+{i}") if i % 2 else (str(i), str(i))
            if poisoned and i % 100 == 37:
                answer, gold = f"{HANG}+{i}", "5"
            out.append((gold, f"so it is \\boxed{{{answer}}}", "stop", False))
        return out

    with Verifier(workers=workers, timeout_s=deadline) as mine:
        mine.verify_many(batch(7, False)[:100])
        start = time.monotonic()
        clean = mine.verify_many(batch(8, False))
        clean_s = time.monotonic() - start
        start = time.monotonic()
        dirty = mine.verify_many(batch(9, True))
        dirty_s = time.monotonic() - start
    killed = [i for i, j in enumerate(dirty) if j.reason == "timeout"]
    assert killed == list(range(37, n, 100))
    assert [j.verdict for i, j in enumerate(dirty) if i not in killed] == [
        j.verdict for i, j in enumerate(clean) if i not in killed
    ]
    assert all(j.verdict is RIGHT for j in clean)
    apart = dirty_s - len(killed) * deadline / workers
    assert apart < 2 * clean_s, f"clean {clean_s:.2f} s, poisoned {dirty_s:.2f} s, deadlines apart {apart:.2f} s"
    assert max(j.seconds for j in dirty) < deadline + 1


def test_threads_share_a_verifier() -> None:
    with Verifier(workers=2, timeout_s=1.0) as mine:
        found: dict[int, list[Judgement]] = {}
        items = [HARD, EASY, HANGS, ("y", r"\boxed{y+0}", "stop", False)]
        threads = [threading.Thread(target=lambda i=i: found.update({i: mine.verify_many(items)})) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert mine.take_counts().verdicts == 24
    assert [[j.verdict for j in found[i]] for i in range(6)] == [[RIGHT, RIGHT, UNKNOWN, RIGHT]] * 6

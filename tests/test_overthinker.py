"""The embedded benchmark: problems, tokenizer, teacher, the committed checkpoint, the same bits when made twice."""

from __future__ import annotations

import json
import random
import re

import pytest

from benchmarks.overthinker import CHECKPOINT, LEVELS, generate, make_drill, make_trace, operands, split_of
from benchmarks.overthinker.teacher import MASKED, MAX_NEW
from benchmarks.overthinker.tokenizer import TOKENS, decode, encode, prompt, write_tokenizer

# A total, perhaps at the end of the line before, what is added to it, and the result: "+412\n-50=362".
LINE = re.compile(r"(\d+)\n?([+-]\d+)=(?=(\d+))")
FIRST_HELDOUT = [
    "L1:6-3",
    "L2:12+9-16",
    "L3:54+61-22",
    "L4:28+162-59+190",
    "L5:95+214+368-387",
    "L6:344+234+414-255+80",
]


def test_generate_is_deterministic_and_a_prefix_of_more():
    rows = generate("train", 960, 0)
    assert rows == generate("train", 960, 0)
    assert rows[:100] == generate("train", 100, 0)
    assert rows != generate("train", 960, 1)


def test_generate_does_not_change_between_releases():
    # The held-out problems are part of the benchmark: numbers of different releases are compared on them.
    assert [row["id"] for row in generate("heldout", 6, 0)] == FIRST_HELDOUT


def test_splits_are_disjoint_and_large_enough():
    train = {row["problem"] for row in generate("train", 3000, 0)}
    heldout = {row["problem"] for row in generate("heldout", 2000, 1)}
    assert len(train) == 3000 and len(heldout) == 2000
    assert not train & heldout
    assert all(split_of(problem) == "heldout" for problem in heldout)


def test_levels_are_even_where_problems_permit():
    count = {level: 0 for level in LEVELS}
    for row in generate("heldout", 600, 0):
        count[row["level"]] += 1
    assert 30 <= count[1] <= 60  # 126 problems in all, a third of them held out
    assert max(count[level] for level in range(2, 7)) - min(count[level] for level in range(2, 7)) <= 1


def test_answers_and_ids():
    for row in generate("train", 1000, 3):
        rule, values = LEVELS[row["level"]], operands(row["problem"])
        assert int(row["answer"]) == eval(row["problem"])
        assert row["id"] == f"L{row['level']}:{row['problem']}"
        assert len(values) == rule.operations + 1
        assert all(rule.low <= abs(value) <= rule.high for value in values)
        assert all(0 <= sum(values[: k + 1]) <= rule.top for k in range(1, len(values)))


@pytest.mark.parametrize("arguments", [("test", 10, 0), ("train", -1, 0)])
def test_generate_refuses(arguments):
    with pytest.raises(ValueError, match="expected"):
        generate(*arguments)


def test_traces_end_right():
    rng = random.Random(0)
    waits = wrong = 0
    for row in generate("train", 2000, 5):
        trace = make_trace(row["problem"], row["level"], rng)
        text = decode(trace.ids)
        assert text.startswith(prompt(row["problem"]) + "<think>")
        assert text.endswith(f"</think>\\boxed{{{row['answer']}}}<eos>")
        assert encode(text) == trace.ids and len(trace.ids) == len(trace.kinds)
        assert len(trace.ids) - len(encode(prompt(row["problem"]))) <= MAX_NEW
        waits += "Wait," in text
        for line in LINE.finditer(text):
            if int(line[1]) + int(line[2]) != int(line[3]):
                wrong += 1
                at = len(encode(text[: line.start(3)]))
                assert trace.kinds[at : at + len(line[3])] == [MASKED] * len(line[3])
    assert waits > 1000 and wrong > 50


def test_single_pass_traces_and_drills_have_no_wrong_line():
    rng = random.Random(0)
    traces = [make_trace(row["problem"], row["level"], rng, single=True) for row in generate("train", 500, 5)]
    for trace in traces + [make_drill(rng) for _ in range(200)]:
        text = decode(trace.ids)
        assert "Wait" not in text
        assert all(int(a) + int(b) == int(c) for a, b, c in LINE.findall(text))


def test_tokenizer_round_trip_and_chat_template(tmp_path):
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == len(TOKENS) == 129
    rng = random.Random(0)
    for row in generate("train", 60, 5):
        ids = make_trace(row["problem"], row["level"], rng).ids
        assert tokenizer.encode(decode(ids)) == ids
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert text.endswith(f"</think>\\boxed{{{row['answer']}}}")
        assert text == decode(ids).replace("<eos>", "").replace("<|user|>", "").replace("<|assistant|>", "")
        message = [{"role": "user", "content": row["problem"]}]
        templated = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        assert templated == encode(prompt(row["problem"]))
        assert tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False) == prompt(
            row["problem"]
        )
    assert tokenizer.decode(tokenizer.encode("Any text, 100 % of it: ~{x}!")) == "Any text, 100 % of it: ~{x}!"
    assert tokenizer.eos_token == "<eos>" and tokenizer.pad_token == "<pad>"


def test_checkpoint_is_small_and_names_no_place():
    files = [path for path in CHECKPOINT.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert config["rope_theta"] == 10000.0 and config["head_dim"] == 32 and "_name_or_path" not in config
    for path in files:
        if path.suffix in (".json", ".jinja"):
            assert not re.search(r"/(home|tmp|work|root|Users)/", path.read_text()), path.name
    assert json.loads((CHECKPOINT / "tokenizer_config.json").read_text())["tokenizer_class"] == (
        "PreTrainedTokenizerFast"
    )


def test_checkpoint_answers_and_rechecks():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.overthinker.measure import boxed, sample

    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT)
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    rows = generate("heldout", 24, 7)
    texts = [tokenizer.decode(ids) for ids in sample(model, [row["problem"] for row in rows], seed=0, greedy=True)]
    assert sum(boxed(text) == row["answer"] for text, row in zip(texts, rows, strict=True)) >= 16
    assert any("Wait," in text for text in texts)
    assert all(text.startswith("<think>") for text in texts)


def test_checkpoint_weights_are_the_recorded_ones():
    from hashlib import sha256

    record = json.loads((CHECKPOINT / "training.json").read_text())
    assert sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest() == record["sha256"]


def test_making_it_twice_gives_the_same_bits(tmp_path, monkeypatch):
    from benchmarks.overthinker import make, measure

    monkeypatch.setattr(make, "ROWS", 2)
    monkeypatch.setattr(measure, "DEV_ROWS", 2)
    hashes = []
    for name in ("a", "b"):
        model, record = make.train(steps=3, seed=0, log=lambda *_, **__: None)
        assert record["tokens"] > 0
        hashes.append(make.save(model, tmp_path / name))
    assert hashes[0] == hashes[1]

"""Prompts: templates, chat templates, special tokens and what ends a response."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.errors import TautError
from rollout.prompts import DEFAULT_TEMPLATE, PromptTemplate, load_tokenizer, stop_ids, thinking_open
from rollout.types import Problem

CHAT = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n<think>\n{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{% endfor %}x"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<|start|>", "<|end|>"]
ASK = Problem("p", "What is {1} + {x}?", "3")


def make_tokenizer(adds: str = "", **options: Any) -> Any:
    """A character tokenizer; `adds` is the post-processor's pattern for the special tokens it puts around a text."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *map(chr, range(32, 127)), "\n"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    if adds:
        pairs = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
        core.post_processor = processors.TemplateProcessing(single=adds, special_tokens=pairs)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **{**names, **options})


def configs(config: Any = None, generation: Any = None) -> tuple[Any, Any]:
    return SimpleNamespace(eos_token_id=config), SimpleNamespace(eos_token_id=generation)


def test_a_plain_template_fills_only_its_two_names() -> None:
    tokenizer = make_tokenizer()
    assert PromptTemplate(tokenizer, "{problem}").render(ASK) == ASK.problem
    assert PromptTemplate(tokenizer).render(ASK) == ASK.problem + DEFAULT_TEMPLATE.removeprefix("{problem}")
    text = r"{problem} {budget} \boxed{} \boxed{answer} {} { x }"
    assert PromptTemplate(tokenizer, text).render(ASK, 64) == ASK.problem + r" 64 \boxed{} \boxed{answer} {} { x }"
    assert PromptTemplate(tokenizer, "Q: {problem}", "Be brief.").render(ASK) == f"Be brief.\n\nQ: {ASK.problem}"


@given(st.text(max_size=60))
def test_no_brace_of_the_problem_is_touched(text: str) -> None:
    template = PromptTemplate(SimpleNamespace(chat_template=None), "<{problem}|{budget}>")
    assert template.render(Problem("p", text, "1"), 5) == f"<{text}|5>"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{probelm}", ["{probelm}", "did you mean {problem}"]),
        ("{problem} {answer}", ["{answer}", "only {problem} and {budget}"]),
        ("Solve it.", ["no {problem}"]),
    ],
)
def test_a_bad_template_is_refused(template: str, words: list[str]) -> None:
    with pytest.raises(TautError) as error:
        PromptTemplate(make_tokenizer(), template)
    assert all(word in str(error.value) for word in words)


def test_budget_and_template_must_agree() -> None:
    with pytest.raises(TautError, match=r"no \{budget\} in"):
        PromptTemplate(make_tokenizer(), "{problem}").render(ASK, 100)
    with pytest.raises(TautError, match="no budget is set"):
        PromptTemplate(make_tokenizer(), "{problem} in {budget}").render(ASK)


def test_a_model_folder_names_its_own_template(tmp_path: Path) -> None:
    make_tokenizer(prompt_template="{problem}").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    loaded = load_tokenizer(tmp_path)
    loaded.save_pretrained(tmp_path / "again")  # a trained model keeps it
    (tmp_path / "again" / "config.json").write_text("{}")
    assert PromptTemplate(load_tokenizer(tmp_path / "again")).render(ASK) == ASK.problem
    assert PromptTemplate(loaded, "Q {problem}").render(ASK) == f"Q {ASK.problem}"


def test_the_chat_template_frames_the_message() -> None:
    template = PromptTemplate(make_tokenizer(chat_template=CHAT), "{problem}", "Be brief.")
    text = template.render(ASK)
    assert (
        text == f"<|start|>system\nBe brief.<|end|>\n<|start|>user\n{ASK.problem}<|end|>\n<|start|>assistant\n<think>\n"
    )
    assert thinking_open(text)
    assert template.decode(template.encode(text)) == template.tokenizer.decode(template.encode(text))
    assert template.encode_all([text, "q", text]) == {text: template.encode(text), "q": template.encode("q")}
    assert template.tokenizer.decode(template.encode(text)).replace(" ", "") == text.replace(" ", "")
    with pytest.raises(TautError, match=r"no system role.*without `system`"):
        PromptTemplate(make_tokenizer(chat_template=NO_SYSTEM), "{problem}", "Be brief.").render(ASK)


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("q", False),
        ("q<think>", True),
        ("q<think>\n", True),
        ("<think>\n\n</think>\n\n", False),
        ("Use <think> tags.", False),
    ],
)
def test_thinking_opened_by_the_prompt(text: str, opened: bool) -> None:
    assert thinking_open(text) is opened


@pytest.mark.parametrize("adds", ["", "<s> $A", "$A </s>", "<s> $A </s>"])
def test_one_bos_and_no_eos(adds: str) -> None:
    template = PromptTemplate(make_tokenizer(adds))
    bos = [1] if "<s>" in adds else []
    assert list(template.encode("ab")) == [*bos, 5 + ord("a") - 32, 5 + ord("b") - 32]
    assert list(template.encode("<s>a")) == [1, 5 + ord("a") - 32], "a BOS in the text is not doubled"
    assert template.encode("a</s>")[-1] == 2, "an EOS in the text stays"


def test_stop_ids_agree_silently() -> None:
    assert stop_ids(make_tokenizer(), *configs(2, 2)) == ([2], [])
    assert stop_ids(make_tokenizer(), *configs(2, [2, 4])) == ([2, 4], [])
    assert stop_ids(make_tokenizer(), *configs(None, None)) == ([2], [])
    assert stop_ids(make_tokenizer(chat_template=CHAT, eos_token="<|end|>"), *configs(4)) == ([4], [])


def test_stop_ids_name_a_disagreement() -> None:
    ids, warnings = stop_ids(make_tokenizer(chat_template=CHAT, eos_token="<|start|>"), *configs(4))
    assert ids == [4]
    assert len(warnings) == 1
    assert "<|start|> (3)" in warnings[0]
    assert "<|end|> (4)" in warnings[0]
    ids, warnings = stop_ids(make_tokenizer(chat_template=CHAT), *configs(2))
    assert ids == [2, 4]
    assert "ends turns with <|end|> (4)" in warnings[0]
    ids, warnings = stop_ids(make_tokenizer(), *configs(2, 4))
    assert ids == [2, 4]
    assert "generation_config.json at <|end|> (4)" in warnings[0]


def test_a_model_without_an_end_is_refused() -> None:
    with pytest.raises(TautError, match="end-of-sequence"):
        stop_ids(make_tokenizer(eos_token=None), *configs())


def test_a_folder_without_model_or_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TautError, match="no such model folder"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(TautError, match=r"no config\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(TautError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(TautError, match="this is a file"):
        load_tokenizer(tmp_path / "config.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TautError, match="cannot be loaded"):
        load_tokenizer(tmp_path)

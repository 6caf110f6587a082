"""From a problem to the token ids that an engine sees: template, chat template, stop tokens."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rewards.errors import TautError
from rollout.types import Problem

DEFAULT_TEMPLATE = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}."
PLACEHOLDERS = ("problem", "budget")
# A braced word is a placeholder unless it is the argument of a LaTeX command: \boxed{answer} is text.
_BRACED = re.compile(r"\\[A-Za-z]+\{[^{}]*\}|\{([A-Za-z_]\w*)\}")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


class PromptTemplate:
    """Turns a problem into the prompt's text and token ids, by the tokenizer's chat template where it has one.

    template: the user's message, with `{problem}` and, for methods that tell the model its budget, `{budget}`; no other
    braces are touched. None takes the `prompt_template` of the model's `tokenizer_config.json`, else DEFAULT_TEMPLATE.
    system: the system message (without a chat template: text before the user's). Raises TautError for a bad template.
    """

    def __init__(self, tokenizer: Any, template: str | None = None, system: str | None = None) -> None:
        own = getattr(tokenizer, "init_kwargs", {}).get("prompt_template")
        self.tokenizer = tokenizer
        self.template = template if template is not None else own if isinstance(own, str) else DEFAULT_TEMPLATE
        self.system = system
        self.chat = bool(getattr(tokenizer, "chat_template", None))
        names = [name for name in _BRACED.findall(self.template) if name]
        for name in names:
            if name not in PLACEHOLDERS:
                near = difflib.get_close_matches(name, PLACEHOLDERS, 1)
                hint = f"did you mean {{{near[0]}}}?" if near else "only {problem} and {budget} are filled in"
                raise TautError(f"template: unknown placeholder {{{name}}} in {self.template!r}; {hint}")
        if "problem" not in names:
            raise TautError(f"template: no {{problem}} in {self.template!r}; put it where the problem's text belongs")
        self.takes_budget = "budget" in names

    def render(self, problem: Problem, budget: int | None = None) -> str:
        """The whole prompt as text, up to where the response begins.

        Raises TautError when `budget` is given and the template has no `{budget}`, or the other way round.
        """
        if budget is None and self.takes_budget:
            raise TautError(
                f"template: {self.template!r} has {{budget}}, but no budget is set; take it out or set a budget"
            )
        if budget is not None and not self.takes_budget:
            raise TautError(
                f"template: no {{budget}} in {self.template!r}, but the method sets a budget (now {budget}); "
                "add for instance 'Think for at most {budget} tokens.'"
            )
        values = {"problem": problem.problem, "budget": str(budget)}
        user = _BRACED.sub(lambda match: values[match[1]] if match[1] else match[0], self.template)
        if not self.chat:
            return f"{self.system}\n\n{user}" if self.system else user
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": user})
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a chat template is a program of its own and may raise anything
            hint = (
                "does it take a system message? try without `system`"
                if self.system
                else "correct the model's chat template"
            )
            raise TautError(f"chat template of {_name(self.tokenizer)}: {error}; {hint}") from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included, as the tokenizer's own `decode` gives it."""
        return self._decoder.decode(list(ids), skip_special_tokens=False)

    @cached_property
    def _decoder(self) -> Any:
        """The tokenizer, or what it asks in turn where it adds nothing to that but time."""
        from transformers import PreTrainedTokenizerFast as Fast

        tokenizer, own = self.tokenizer, type(self.tokenizer)
        same = isinstance(tokenizer, Fast) and all(getattr(own, n) is getattr(Fast, n) for n in ("decode", "_decode"))
        return tokenizer.backend_tokenizer if same and not tokenizer.clean_up_tokenization_spaces else tokenizer

    def encode(self, text: str) -> tuple[int, ...]:
        """The token ids of a rendered prompt: at most one beginning-of-sequence token, no end-of-sequence one."""
        return self.encode_all([text])[text]

    def encode_all(self, texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """`encode` of each text."""
        if not texts:
            return {}
        plain = self._ids(texts, False)
        if self.chat:  # the chat template wrote the special tokens itself
            return dict(zip(texts, map(tuple, plain), strict=True))
        encoded = self._ids(texts, True)
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        for i, (ids, own) in enumerate(zip(encoded, plain, strict=True)):
            if bos is not None and ids[:2] == [bos, bos]:
                ids = ids[1:]
            if eos is not None and ids[-1:] == [eos] and own[-1:] != [eos]:
                ids = ids[:-1]
            encoded[i] = ids
        return dict(zip(texts, map(tuple, encoded), strict=True))

    def _ids(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False)["input_ids"]


def thinking_open(text: str) -> bool:
    """Whether a rendered prompt ends with an opened `<think>`: the response starts inside the thinking."""
    return text.rstrip().endswith("<think>")


def model_configs(path: str | Path) -> tuple[Any, Any]:
    """(config, generation config or None) of a model folder."""
    from transformers import AutoConfig, GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(path)
    except OSError:
        generation = None
    return AutoConfig.from_pretrained(path), generation


def stop_ids(tokenizer: Any, model_config: Any, generation_config: Any) -> tuple[list[int], list[str]]:
    """(token ids that end a response, what its sources disagree about), from the configs and the chat template.

    The union of config.json's and generation_config.json's eos_token_id, plus the token that ends an assistant's turn
    in the chat template. The tokenizer's eos_token counts only where these name none: a token it alone names is left
    out and a warning says so. Raises TautError when nothing names an end.
    """
    config, generation = _eos(model_config), _eos(generation_config)
    turn, own = _end_of_turn(tokenizer), tokenizer.eos_token_id
    stops = set(config) | set(generation)
    warnings = []
    if config and generation and not set(config) & set(generation):
        warnings.append(
            f"config.json ends at {_tokens(tokenizer, config)}, "
            f"generation_config.json at {_tokens(tokenizer, generation)}: responses stop at either"
        )
    if turn is not None and turn not in stops:
        if stops:
            warnings.append(
                f"the chat template ends turns with {_tokens(tokenizer, [turn])}, the model's config with "
                f"{_tokens(tokenizer, sorted(stops))}: responses stop at either"
            )
        stops.add(turn)
    if own is not None and own not in stops:
        if stops:
            warnings.append(
                f"the tokenizer's eos_token is {_tokens(tokenizer, [own])}, the model's config ends at "
                f"{_tokens(tokenizer, sorted(stops))}: the tokenizer's is left out (generation_config.json decides)"
            )
        else:
            stops.add(own)
    if not stops:
        raise TautError(
            f"{_name(tokenizer)}: neither config.json, generation_config.json nor the tokenizer names an "
            "end-of-sequence token, so no response would end; set eos_token_id in generation_config.json"
        )
    return sorted(stops), warnings


def load_tokenizer(model_path: str | Path) -> Any:
    """The tokenizer of a Hugging Face model folder (or hub name); TautError where there is no model or tokenizer."""
    name, path = str(model_path), Path(model_path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise TautError(f"{name}: not a model folder (no config.json); give a folder that save_pretrained wrote")
        if not any((path / file).is_file() for file in _TOKENIZER_FILES):
            raise TautError(
                f"{name}: no tokenizer in this model folder (no tokenizer.json); save the model's tokenizer there"
            )
    elif path.exists():
        raise TautError(f"{name}: this is a file, not a model folder; give the folder that holds config.json")
    elif not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or Path(name.split("/")[0]).exists():
        near = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.glob("*")), 3, 0.5)
        hint = f"nearest in {path.parent}: {', '.join(near)}" if near else "check the path"
        raise TautError(f"{name}: no such model folder; {hint}")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, TypeError... for a broken folder
        raise TautError(
            f"{name}: the tokenizer cannot be loaded ({error}); save it again with save_pretrained"
        ) from error


def _eos(config: Any) -> list[int]:
    eos = getattr(config, "eos_token_id", None)
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def _end_of_turn(tokenizer: Any) -> int | None:
    """The first special token after the assistant's words in the chat template, if there is a template that can say."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "qzwjx"}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template that cannot render an answered turn names no end; the configs decide
        return None
    tail = text.rpartition("qzwjx")[2]
    special = set(tokenizer.all_special_ids) | {
        id for id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return next((id for id in tokenizer.encode(tail, add_special_tokens=False) if id in special), None)


def _tokens(tokenizer: Any, ids: list[int]) -> str:
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(i)} ({i})" for i in ids)


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")

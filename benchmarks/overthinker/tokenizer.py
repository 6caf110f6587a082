"""The benchmark's tokenizer: 129 tokens, printable ASCII one by one plus a few words, with a chat template."""

from __future__ import annotations

import json
import re
from pathlib import Path

UNK, PAD, EOS, USER, ASSISTANT = "<unk>", "<pad>", "<eos>", "<|user|>", "<|assistant|>"
SPECIAL = [PAD, EOS, USER, ASSISTANT]  # skipped by decode(skip_special_tokens=True)
# Not special: a verifier has to see where the thinking ends and where the answer is.
MARKS = ["<think>", "</think>", "\\boxed{", "\n"]
# Some words carry their comma or space, so that a re-check opens with three or four tokens, not ten.
WORDS = [
    "So ", "Yes, ", "OK, ", "Still ", "No, ", "Hmm, ", "Wait,",
    " let", " me", " check", " that", " is", " right", " try", " it", " another", " way", " again", " once", " more",
    " by", " parts", " sure", ": ", "? ",
]  # fmt: skip
ASCII = [chr(code) for code in range(32, 127)]
TOKENS = [UNK, *ASCII, *SPECIAL, *MARKS, *WORDS]  # position = id
IDS = {token: index for index, token in enumerate(TOKENS)}
PADDED_VOCABULARY = 136  # the model's embedding rows: the next multiple of 8 after 129

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<eos>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Same rule as the added tokens of `tokenizers`: leftmost, then longest; everything else is one character a token.
_PIECE = re.compile("|".join(re.escape(token) for token in sorted(TOKENS, key=len, reverse=True)) + "|.", re.DOTALL)


def prompt(problem: str) -> str:
    """The text the model continues: what the chat template gives for one user message with a generation prompt."""
    return f"{USER}{problem}{ASSISTANT}"


def encode(text: str) -> list[int]:
    """Token ids of the text, equal to the saved tokenizer's; pure Python, so that the teacher needs no tokenizer."""
    return [IDS.get(piece, IDS[UNK]) for piece in _PIECE.findall(text)]


def decode(ids: list[int]) -> str:
    """The text of the ids, special tokens included; ids of the padded vocabulary have no text."""
    return "".join(TOKENS[index] for index in ids if index < len(TOKENS))


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json into the folder, readable by AutoTokenizer and vLLM."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    base = {token: IDS[token] for token in [UNK, *ASCII]}
    tokenizer = Tokenizer(models.BPE(vocab=base, merges=[], unk_token=UNK))
    tokenizer.decoder = decoders.Fuse()  # plain concatenation: without it decode() puts spaces between tokens
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in [*MARKS, *WORDS]])
    assert tokenizer.get_vocab() == IDS
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    # Written by hand: transformers 5 would write its own class name, which older versions and vLLM may not know.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNK,
        "pad_token": PAD,
        "eos_token": EOS,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

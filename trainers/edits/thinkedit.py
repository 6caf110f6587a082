"""ThinkEdit (Sun et al., 2503.22048): attention heads that write "think short" into the residual stream lose that direction.

python -m trainers.edits.thinkedit model=FOLDER log=RUN/rollouts out=DIR        # a rollout log, or an evaluation's parquet
python -m trainers.edits.thinkedit model=FOLDER data=FILE.jsonl out=DIR         # samples the responses itself
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from rewards.errors import TautError
from rollout.paths import locate
from trainers.edits.folders import free, rewrite, tensors
from trainers.edits.responses import Pair, Sampling, responses, thinking
from trainers.settings import parse_override, resolve, set_dotted

if TYPE_CHECKING:
    from torch import Tensor

    Tokens = tuple[list[int], int, int]  # (prompt and response, where the thinking starts, where it ends)


class ThinkEditConfig(Sampling):
    """The settings, as key=value. Published: long 1000, short 100, strength 1, 20 / 40 / 80 / 160 heads of the 1.5B / 8B / 14B /
    32B R1 distillations (about 4 % of the heads)."""

    model: str = Field(description="a Hugging Face folder of a Llama or Qwen architecture")
    out: str = Field(description="the new model folder")
    long: int = Field(default=1000, ge=0, description="thinking of more tokens than this is long")
    short: int = Field(default=100, ge=1, description="thinking of fewer tokens than this is short")
    heads: int | None = Field(default=None, ge=1, description="heads to edit; None: 4 % of all, at least one")
    strength: float = Field(default=1.0, description="1 removes the direction, 0 changes nothing, 2 reflects it")
    examples: int | None = Field(default=None, ge=1, description="most responses of each kind, the first; None: all")

    @model_validator(mode="after")
    def _apart(self) -> ThinkEditConfig:
        if self.short > self.long + 1:
            raise ValueError(f"short {self.short} exceeds long {self.long}: a response would be both; lower `short`")
        return self


def project_out(weight: Tensor, direction: Tensor, strength: float = 1.0) -> Tensor:
    """W - strength * (W u) u^T with u the unit `direction` (H,): the part of every row of W (d, H) that lies along it.

    For a head's output weight in the orientation (head dim, hidden). A direction of zero has no unit vector: unchanged.
    """
    import torch

    wide = torch.promote_types(weight.dtype, torch.float32)
    w, v = weight.to(wide), direction.to(weight.device, wide)
    unit = v / v.norm().clamp_min(torch.finfo(wide).tiny)
    return (w - strength * torch.outer(w @ unit, unit)).to(weight.dtype)


def edit_heads(o_proj: Tensor, heads: Sequence[int], num_heads: int, direction: Tensor, strength: float) -> Tensor:
    """o_proj.weight (hidden, heads * head dim) of a layer, `direction` projected out of the slices of `heads`."""
    edited = o_proj.clone()
    size = o_proj.shape[1] // num_heads
    for head in heads:
        columns = slice(head * size, (head + 1) * size)
        edited[:, columns] = project_out(o_proj[:, columns].T, direction, strength).T
    return edited


@dataclass(frozen=True)
class Measured:
    """directions (L, H): mean(long) - mean(short) of the input of each post-attention norm; contributions (L, heads): how far
    each head's output moves along minus the unit direction in short responses; names: each layer's o_proj.weight."""

    directions: Tensor
    contributions: np.ndarray
    names: list[str]
    num_heads: int

    def top(self, count: int) -> list[tuple[int, int]]:
        """The `count` (layer, head) of largest contribution; ties to the earlier layer, then head."""
        order = np.argsort(-self.contributions, axis=None, kind="stable")[:count]
        return [divmod(int(i), self.num_heads) for i in order]


def measure(model: Any, long: Sequence[Tokens], short: Sequence[Tokens]) -> Measured:
    """Directions and contributions. As in the official code a thinking token counts by the state that predicts it, each response
    by the mean over its thinking tokens, and every response the same. Head outputs are linear in their weight, so one pass
    serves both. Raises TautError for an architecture without the modules."""
    import torch

    layers = getattr(model.base_model, "layers", None) or ()
    for layer in layers:
        if hasattr(layer, "pre_feedforward_layernorm") or not hasattr(layer, "post_attention_layernorm"):
            layers = ()
            break
    if not layers or not all(hasattr(getattr(layer, "self_attn", None), "o_proj") for layer in layers):
        raise TautError(
            f"{type(model).__name__}: needs layers with self_attn.o_proj and a norm between attention and MLP "
            "(post_attention_layernorm), as Llama and Qwen have them"
        )
    seen: dict[tuple[int, str], Tensor] = {}

    def catch(key: tuple[int, str]) -> Callable[[Any, tuple[Tensor, ...]], None]:
        return lambda _, inputs: seen.__setitem__(key, inputs[0].detach()[0])

    hooks = [
        layer.post_attention_layernorm.register_forward_pre_hook(catch((i, "residual")))
        for i, layer in enumerate(layers)
    ]
    hooks += [layer.self_attn.o_proj.register_forward_pre_hook(catch((i, "heads"))) for i, layer in enumerate(layers)]

    def mean(examples: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        sums: list[Any] = [0.0, 0.0]
        for ids, start, end in examples:
            with torch.no_grad():
                model.base_model(input_ids=torch.tensor([ids[:end]], device=model.device), use_cache=False)
            for k, what in enumerate(("residual", "heads")):
                states = [seen[i, what][start - 1 : end - 1].double().mean(0).cpu() for i in range(len(layers))]
                sums[k] = sums[k] + torch.stack(states) / len(examples)
        return sums[0], sums[1]

    try:
        (far, _), (near, outputs) = mean(long), mean(short)
    finally:
        for hook in hooks:
            hook.remove()
    directions, num_heads = far - near, model.config.get_text_config().num_attention_heads
    units = directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    shares = [
        (outputs[i] * (layer.self_attn.o_proj.weight.detach().double().cpu().T @ -units[i])).view(num_heads, -1).sum(-1)
        for i, layer in enumerate(layers)
    ]
    parameters = {id(p): name for name, p in model.named_parameters()}
    names = [parameters[id(layer.self_attn.o_proj.weight)] for layer in layers]
    return Measured(directions, torch.stack(shares).numpy(), names, num_heads)


def split(pairs: Sequence[Pair], tokenizer: Any, c: ThinkEditConfig) -> tuple[list[Any], list[Any]]:
    """The long and the short examples among (prompt ids, response ids). Raises TautError when there are none of one kind."""
    opens, closes = (tokenizer.encode(mark, add_special_tokens=False) for mark in ("<think>", "</think>"))
    long, short, lengths = [], [], []
    for prompt, response in pairs:
        span = thinking(response, opens, closes)
        if span is None or not prompt:
            continue
        length = span[1] - span[0]
        lengths.append(length)
        example = ([*prompt, *response], len(prompt) + span[0], len(prompt) + span[1])
        if length > c.long or length < c.short:
            (long if length > c.long else short).append(example)
    for kind, found in (("long", long), ("short", short)):
        if not found:
            spread = f"after {min(lengths)} to {max(lengths)} tokens" if lengths else "in none of them"
            raise TautError(
                f"{len(pairs)} responses, thinking that closes {spread}: none is {kind}; "
                f"choose another {kind} (now {getattr(c, kind)})"
            )
    return long[: c.examples], short[: c.examples]


def edit(config: ThinkEditConfig, say: Callable[[str], None] = print) -> Path:
    """Measure, pick, edit and write; the new folder's path. Raises TautError."""
    from rollout.prompts import load_tokenizer
    from trainers.policy import Policy

    folder, out = locate(config.model), free(Path(config.out))
    tokenizer = load_tokenizer(folder)
    pairs = responses(config, folder, tokenizer)
    long, short = split(pairs, tokenizer, config)
    say(f"{len(long)} long and {len(short)} short responses of {len(pairs)}")
    measured = measure(Policy.load(folder).model, long, short)
    all_heads = measured.contributions.size
    chosen = measured.top(min(config.heads or max(1, round(0.04 * all_heads)), all_heads))
    for layer, head in chosen:
        say(f"layer {layer} head {head}: contribution {measured.contributions[layer, head]:+.4f}")
    left = {name: (layer, [h for at, h in chosen if at == layer]) for layer, name in enumerate(measured.names)}
    left = {name: (layer, heads) for name, (layer, heads) in left.items() if heads}

    def change(name: str, tensor: Tensor) -> Tensor:
        if name not in left:
            return tensor
        layer, heads = left.pop(name)
        return edit_heads(tensor, heads, measured.num_heads, measured.directions[layer], config.strength)

    heads = [{"layer": i, "head": h, "contribution": float(measured.contributions[i, h])} for i, h in chosen]
    note = {"method": "thinkedit", "paper": "2503.22048", **config.model_dump(mode="json"), "edited": heads}
    stored = set(tensors(folder))
    if lacking := [name for name in left if name not in stored]:
        raise TautError(
            f"{folder}: its safetensors lack {lacking[0]}, which the loaded model has; save the model again"
        )
    rewrite(folder, out, change, {"thinkedit.json": json.dumps(note, indent=1) + "\n"})
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or "-h" in arguments or "--help" in arguments:
        fields = ThinkEditConfig.model_fields.items()
        print(__doc__, *(f"  {k:<10} {f.description or ''}" for k, f in fields), sep="\n")
        return 0
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        values: dict[str, Any] = {}
        for keys, value in map(parse_override, arguments):
            set_dotted(values, keys, value)
        print(edit(resolve(ThinkEditConfig, values, "thinkedit")))
    except TautError as error:
        print(f"thinkedit: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

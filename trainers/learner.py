"""What learns: the policy with its optimiser, in this process or as one of the ranks that share a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rewards.errors import TautError
from rollout.memory import parameters, refuse_without_room
from rollout.paths import locate
from rollout.types import Rollout
from trainers.config import TrainConfig
from trainers.lora import LoraConfig, add_adapters, merged
from trainers.optim import make_optimizer
from trainers.policy import DTYPES, Policy
from trainers.sharding import fill, load_shards, read_whole, save_shards, shard, state_of, whole
from trainers.share import Share
from trainers.update import Scored, Updater

Measured = tuple[dict[str, Any], list[Tensor] | None]


class Learner(Protocol):
    """The policy as the loop sees it. model_config, generation_config: of transformers. parameters: how many there are."""

    model_config: Any
    generation_config: Any
    parameters: int

    def measure(self, rollouts: Sequence[Rollout], needs: frozenset[str]) -> Measured:
        """See `Updater.measure`."""
        ...

    def update(self, scored: Scored, step: int) -> dict[str, float]:
        """See `Updater.update`."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """Every weight under its Hugging Face name, as the engines need it; views where it is whole in this process."""
        ...

    def score(self, ids: Sequence[int], temperature: float = 1.0) -> list[float]:
        """See `Policy.score`."""
        ...

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write into a checkpoint's folder all that `restore` needs, the model folder `model` among it."""
        ...

    def restore(self, folder: Path) -> None:
        """Take back what `save` wrote, by any number of ranks. Raises TautError for what is of another run."""
        ...

    def export(self, folder: Path, tokenizer: Any) -> None:
        """Write the weights as a Hugging Face folder."""
        ...

    def close(self) -> None:
        """Give processes back."""
        ...


@dataclass(frozen=True)
class Start:
    """What a learner is made from. model: the folder that its weights come from; reference: those of the KL term.
    think_end, probe_ids: see Updater."""

    config: TrainConfig
    model: Path
    reference: Path
    think_end: int | None = None
    probe_ids: tuple[tuple[int, int], ...] = ()


class LocalLearner:
    """See Learner. share and mesh: as one of several ranks, all of which are then called alike; weights are rank 0's."""

    def __init__(self, start: Start, share: Share | None = None, mesh: Any = None, device: str = "auto") -> None:
        config, self.share, self.mesh = start.config, share or Share(), mesh
        refuse_training_without_room(start, self.share.world, device)
        self.policy, self.dtype = self._load(start.model, config, device, config.lora)
        reference = None
        if "ref_log_prob" in config.objective.needs:
            reference = self._load(start.reference, config, device, None)[0]
        self.model_config = self.policy.model.config
        self.generation_config = self.policy.model.generation_config
        self.parameters = sum(p.numel() for p in self.policy.model.parameters())
        self.updater = Updater(
            policy=self.policy,
            optimizer=make_optimizer(self.policy.model, config.optim),
            config=config,
            reference=reference,
            think_end=start.think_end,
            probe_ids=start.probe_ids,
            share=self.share,
        )
        self.measure, self.update = self.updater.measure, self.updater.update

    def _load(
        self, folder: Path, config: TrainConfig, device: str, lora: LoraConfig | None
    ) -> tuple[Policy, torch.dtype]:
        """The policy in a folder, spread over the ranks where there are any, and the type that it computes in."""
        dtype = config.dtype if self.mesh is None else "float32"
        policy = Policy.load(folder, dtype, device, gradient_checkpointing=config.trainer.gradient_checkpointing)
        of_model = next(policy.model.parameters()).dtype
        if lora is not None:
            add_adapters(policy.model, lora, config.seed)
        if self.mesh is None:
            return policy, of_model
        automatic = "float32" if self.mesh.device_type == "cpu" else "bfloat16"
        dtype = DTYPES[automatic if config.dtype == "auto" else config.dtype]
        shard(policy, self.mesh, dtype)
        return policy, dtype

    def weights(self) -> dict[str, Tensor]:
        if self.mesh is None:
            return self.policy.weights()
        every = merged(self.policy.model, whole)  # one weight after the other is whole, and kept by rank 0 alone
        kept = ((name, w.to(self.dtype).cpu() if self.share.rank == 0 else None) for name, w in every)
        return {name: w for name, w in kept if w is not None}

    def score(self, ids: Sequence[int], temperature: float = 1.0) -> list[float]:
        return self.policy.score(ids, temperature)

    def save(self, folder: Path, tokenizer: Any) -> None:
        if self.mesh is None:
            self.policy.save(folder / "model", tokenizer, self._adapted())
            state = {"optimizer": self.updater.optimizer.state_dict(), "torch_rng": torch.get_rng_state()}
            torch.save(state | {"adapters": self._adapters()}, folder / "trainer.pt")
            return
        if self.share.rank == 0:  # the weights are in the shards
            self.model_config.save_pretrained(folder / "model")
            self.generation_config.save_pretrained(folder / "model")
            tokenizer.save_pretrained(folder / "model")
        save_shards(folder / "shards", state_of(self.policy, self.updater.optimizer))

    def restore(self, folder: Path) -> None:
        optimizer = self.updater.optimizer
        if (folder / "shards").exists():
            load_shards(folder / "shards", self.policy, optimizer)
            return
        try:
            saved = torch.load(folder / "trainer.pt", map_location="cpu", weights_only=True)
            for name, p in self._adapters().items():
                fill(p, saved["adapters"][name])
            if self.mesh is None:
                optimizer.load_state_dict(saved["optimizer"])
            else:
                read_whole(saved["optimizer"], self.policy, optimizer)
            torch.set_rng_state(saved["torch_rng"])
        except (KeyError, ValueError, RuntimeError, OSError) as error:
            raise foreign(folder, error) from error

    def export(self, folder: Path, tokenizer: Any) -> None:
        weights = self._adapted() if self.mesh is None else self.weights()
        if self.share.rank == 0:
            self.policy.save(folder, tokenizer, weights)

    def _adapters(self) -> dict[str, Tensor]:
        """What LoRA trains, by name."""
        return {name: p.detach() for name, p in self.policy.model.named_parameters() if ".lora_" in name}

    def _adapted(self) -> dict[str, Tensor] | None:
        """The weights with LoRA's part; None where they are the model's own."""
        return self.policy.weights() if self.updater.config.lora else None

    def close(self) -> None:
        pass


def refuse_training_without_room(start: Start, world: int, device: str) -> None:
    """Raises TautError where weights, gradients and AdamW's two moments do not fit; activations come on top of them."""
    if (numbers := parameters(start.model)) is None:
        return
    config, gpu = start.config, device != "cpu" and torch.cuda.is_available()
    narrow = config.dtype == "bfloat16" or (config.dtype == "auto" and gpu)
    trained = 0.02 if config.lora else 1.0  # of LoRA only the order of magnitude
    each = (2 if narrow and world == 1 else 4) + trained * (16 if narrow and world == 1 else 12)
    parts = {f"for {numbers / 1e9:.2f} B weights, gradients and optimiser": int(numbers * each) // world}
    if "ref_log_prob" in config.objective.needs:
        parts["for the reference model"] = numbers * (2 if narrow and world == 1 else 4) // world
    remedy = (
        "spread it over more trainer.ranks (each on a GPU or machine of its own), or train factors only (lora.rank=16)"
    )
    refuse_without_room("trainer", start.model, parts, gpu, remedy)


def foreign(folder: Path, error: BaseException) -> TautError:
    """The error for a checkpoint of something else."""
    return TautError(f"{folder}: not a checkpoint of this run ({error}); remove it, or start a new run")


def start_of(config: TrainConfig, checkpoint: Path | None, **more: Any) -> Start:
    """Where a learner's weights come from: a checkpoint that holds them whole, or the run's own model (shards follow)."""
    inside = checkpoint / "model" if checkpoint is not None else None
    has_weights = inside is not None and config.lora is None and any(inside.glob("*.safetensors"))
    model = inside if has_weights and inside else locate(config.model)
    return Start(config, _fixed(model), _fixed(locate(config.kl_reference or config.model)), **more)


def _fixed(path: Path) -> Path:
    """A path that means the same in another process; the name of a model on a hub stays."""
    return path.absolute() if path.exists() else path


def make_learner(start: Start) -> Learner:
    """A learner in this process, or on `trainer.ranks` Ray actors."""
    if not start.config.trainer.ranks:
        return LocalLearner(start)
    from trainers.ranks import RankedLearner

    return RankedLearner(start)

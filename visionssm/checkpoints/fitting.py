"""Whether a state dict fits a model: names, shapes, kinds of numbers; and if not, why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.checkpoints.read import check_kind, some
from visionssm.data.errors import CheckpointError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Mismatch:
    """How a state dict differs from what a model needs."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]]  # key, shape in the file, shape in the model

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def __str__(self) -> str:
        shapes = [f"{key} is {ours} in the model and {theirs} in the file" for key, theirs, ours in self.misshaped]
        lines = [("missing", self.missing), ("unexpected", self.unexpected), ("mis-shaped", shapes)]
        return "\n".join(f"  {len(keys)} {kind}: {some(keys)}" for kind, keys in lines if keys)

    def without(self, keys: frozenset[str]) -> Mismatch:
        """The differences in all other keys."""
        return Mismatch(
            missing=[key for key in self.missing if key not in keys],
            unexpected=[key for key in self.unexpected if key not in keys],
            misshaped=[entry for entry in self.misshaped if entry[0] not in keys],
        )


def compare(state: Mapping[str, Tensor], model: nn.Module) -> Mismatch:
    """Compare names and shapes of a state dict in our layout with those of a model."""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    return Mismatch(
        missing=[key for key in wanted if key not in state],
        unexpected=[key for key in state if key not in wanted],
        misshaped=[
            (key, tuple(state[key].shape), shape)
            for key, shape in wanted.items()
            if key in state and tuple(state[key].shape) != shape
        ],
    )


def check_values(state: Mapping[str, Tensor], model: nn.Module, source: str) -> None:
    """Refuse weights that would become other numbers in the model: of another kind, not finite, or out of range.

    Args:
        state: in the layout of `model`; keys that it does not have are passed over.
        source: what the state dict is called in an error.
    Raises:
        CheckpointError: naming the first such weight.
    """
    for key, wanted in model.state_dict().items():
        if key in state:
            check_kind(key, state[key])
            problem = _unfit(state[key], wanted)
            if problem is not None:
                raise CheckpointError(f"{source} has unfit weights, nothing was loaded: {key!r} {problem}")


def _unfit(x: Tensor, wanted: Tensor) -> str | None:
    if wanted.is_meta:
        return "has no memory in the model, which was built on the meta device; build it without that"
    if x.is_meta:
        return "has no values in the file or dictionary (meta device)"
    if wanted.is_floating_point():
        if x.dtype not in _FLOATS:
            return f"is of the type {x.dtype}, where the model has {wanted.dtype}; convert it as its makers mean it"
        if not _all_finite(x):
            return f"holds {int((~x.isfinite()).sum()):,} values that are NaN or infinite, of {x.numel():,}"
        if x.dtype != wanted.dtype and not _all_finite(x.to(wanted.dtype)):
            return f"holds values up to {float(x.abs().max()):.3g}, which {wanted.dtype} cannot hold"
    elif wanted.is_complex() or wanted.dtype == torch.bool or x.is_complex() or x.dtype == torch.bool:
        if x.dtype != wanted.dtype:
            return f"is of the type {x.dtype}, where the model has {wanted.dtype}"
        if not _all_finite(x):
            return "holds values that are NaN or infinite"
    elif x.is_floating_point():  # a count of steps that was averaged with the weights: its fraction means nothing
        if not bool((x.double().abs() < 2**53).all()):  # nor does NaN pass
            return f"holds numbers that {wanted.dtype} cannot hold"
    elif not torch.equal(x.to(wanted.dtype).to(x.dtype), x):
        return f"holds numbers that {wanted.dtype} cannot hold"
    return None


def _all_finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite. Finite ones may have an infinite sum, but a finite sum has no others.

    Of four million values the sum takes 0.4 ms on one thread, and looking at each 8.
    """
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def layer_names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """An entry of a pretrained configuration that names one layer, several or none."""
    return (value,) if isinstance(value, str) else tuple(value or ())


def classifier_keys(cfg: Mapping[str, Any]) -> frozenset[str]:
    """Parameters of the layers that a pretrained configuration calls the classifier."""
    return frozenset(f"{name}.{part}" for name in layer_names(cfg.get("classifier")) for part in ("weight", "bias"))

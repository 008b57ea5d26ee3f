"""Applying a network to images, volumes slice by slice, and volumes by sliding windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations

import torch
from torch import Tensor

from visionssm.extras import needs_extra
from visionssm.tasks.medical.settings import Inference

__all__ = ["Inference", "likely", "probabilities"]


def probabilities(network: Callable[[Tensor], Tensor], inputs: Tensor, dims: int, how: Inference) -> Tensor:
    """Probabilities of the classes at every pixel.

    Args:
        network: (B, C, *sides) to logits (B, K, *sides); K = 1 stands for a foreground alone.
        inputs: (C, *sides), an image or a volume.
        dims: spatial dimensions of the network; 2 for a volume means slice by slice.
        how: see `Inference`.
    Returns:
        (K, *sides) float32.
    Raises:
        ValueError: an image is given to a network of volumes.
        MissingExtraError: (an ImportError) MONAI is not installed and a window is asked for.

    Examples:
        >>> import torch
        >>> probabilities(lambda x: torch.cat([x, -x], 1), torch.zeros(1, 3, 4, 4), 2, Inference()).unique()
        tensor([0.5000])
    """
    sides = inputs.ndim - 1
    if sides not in (dims, dims + 1) or (dims, sides) == (3, 4):
        raise ValueError(f"the network takes {'volumes' if dims == 3 else 'images'}, got {sides} dimensions")

    def mirrored(x: Tensor) -> Tensor:
        return _mirrored(network, x, how.mirror)

    if sides == dims:
        return _windows(mirrored, inputs[None], how)[0]
    parts = inputs.transpose(0, 1).split(how.batch)  # slices first
    return torch.cat([_windows(mirrored, part, how) for part in parts]).transpose(0, 1)


def _windows(network: Callable[[Tensor], Tensor], x: Tensor, how: Inference) -> Tensor:
    if how.patch is None or how.patch == tuple(x.shape[2:]):
        return network(x)
    with needs_extra("medical", "sliding windows"):
        from monai.inferers import sliding_window_inference
    found = sliding_window_inference(
        x, how.patch, how.batch, network, overlap=how.overlap, mode="gaussian", sigma_scale=0.125
    )
    assert isinstance(found, Tensor)
    return found.as_subclass(Tensor)


def _mirrored(network: Callable[[Tensor], Tensor], x: Tensor, axes: Sequence[int]) -> Tensor:
    subsets = list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))
    total = x.new_zeros((), dtype=torch.float32)
    for subset in subsets:
        places = [axis + 2 for axis in subset]
        total = total + likely(network(x.flip(places))).flip(places)
    return total / len(subsets)


def likely(logits: Tensor) -> Tensor:
    """(B, K, *sides) logits to probabilities: a softmax, or with one class a sigmoid; float32."""
    return logits.float().sigmoid() if logits.shape[1] == 1 else logits.float().softmax(1)

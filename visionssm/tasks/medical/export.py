"""Networks for medical segmentation in the form that a file holds: images and volumes to probabilities."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from visionssm.heads.medical.mhsvm import MHSVM
from visionssm.heads.medical.segmenter import Segmenter
from visionssm.integrations.export import Exportable, description
from visionssm.integrations.export.exportable import IMAGE_AXES, VOLUME_AXES, relative_difference
from visionssm.tasks.medical.inference import Inference, likely
from visionssm.tasks.medical.preparation import Preparation

_USUAL_SIDE = {2: 256, 3: 64}
_AS_NEAR = 3.0
"""How many times as far from float64 as eager float32 a file of an ill-conditioned network may be."""


class Probabilities(nn.Module):
    """(B, C, *sides) prepared images to (B, K, *sides) probabilities; K = 1 stands for the foreground alone."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        return likely(self.network(image))


def exportable_segmenter(
    network: Segmenter, classes: Sequence[str], preparation: Preparation, inference: Inference
) -> Exportable:
    """What `export_onnx` and `export_archive` take: prepared images or volumes to `probabilities` of the same sides.

    How images are prepared and windows are laid over them is no part of the graph; the file says both of itself. A
    network that was planned for one patch only takes that one, any number at a time.

    Args:
        network: in evaluation mode.
        classes: all class names, the background first.
        preparation: of its images.
        inference: how it is applied.
    """
    dims = network.spatial_dims
    axes = IMAGE_AXES if dims == 2 else VOLUME_AXES
    sides = network.only_sides or inference.patch or _usual_sides(network, preparation)
    graph = Probabilities(network).eval()
    how: dict[str, Any] = {
        "task": "medical",
        "input": f"(B, {network.in_chans}, {', '.join('DHW'[-dims:])}) as preparation makes it",
        "preparation": preparation.plain(),
        "dims": dims,
        "patch": inference.patch,
        "overlap": inference.overlap,
        "mirror": inference.mirror or None,
        "threshold": inference.threshold if network.num_classes == 1 else None,
    }
    further: dict[str, Any] = {}
    if isinstance(network, MHSVM):
        further = {"expected": _Exact(graph), "difference": difference_beside_eager}
    return Exportable(
        graph,
        outputs=("probabilities",),
        axes=axes if network.only_sides is None else {0: axes[0]},
        shape=(1, network.in_chans, *sides),
        about=description(classes, **how),
        **further,
    )


def _usual_sides(network: Segmenter, preparation: Preparation) -> tuple[int, ...]:
    if network.spatial_dims == 2 and preparation.size is not None:
        return preparation.size
    return tuple(max(_USUAL_SIDE[network.spatial_dims], 2 * step) for step in network.stride)


class _Exact:
    """Of an image to what the network finds in float64 and in float32."""

    def __init__(self, graph: nn.Module) -> None:
        self.graph, self.double = graph, copy.deepcopy(graph).double()

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.double(image.double()), self.graph(image)


def difference_beside_eager(actual: Sequence[Tensor], expected: tuple[Tensor, Tensor]) -> float:
    """How far a file of an ill-conditioned network is from float64, beyond what float32 itself explains.

    MHS-VM's gates divide small differences: eager float32 is off float64 by 1e-3 and more, and another order of
    summation by as much elsewhere. Both root mean squares are compared, since largest values of such errors vary.

    Args:
        actual: what the file gives.
        expected: what the network finds in float64, and in float32.
    Returns:
        0 where the file is at most three times as far from float64 as eager is; else its distance.
    """
    exact, eager = expected
    (found,) = actual
    if found.shape != exact.shape:
        return math.inf
    far, near = (float((x.double() - exact).square().mean().sqrt() / exact.abs().max()) for x in (found, eager))
    return 0.0 if far <= _AS_NEAR * near else relative_difference([found], exact)

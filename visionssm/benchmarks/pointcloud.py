"""LION's operators and parts on the CPU: ratios of one run, beside the goals that they have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.benchmarks.memory import growth
from visionssm.benchmarks.timing import CLOCKS, medians_in_turn, progress
from visionssm.kernels import neighbour_table, rotated_nms, sparse_conv
from visionssm.kernels.rotated_boxes.reference import nms_reference, overlap_reference
from visionssm.kernels.sparse_conv.reference import sparse_conv_reference
from visionssm.pointcloud.backbone import LionBackbone
from visionssm.pointcloud.bev import seen_from_above
from visionssm.pointcloud.blocks import LionLayer
from visionssm.pointcloud.operators import OPERATORS
from visionssm.pointcloud.operators.xlstm import mlstm
from visionssm.pointcloud.partition import Partition
from visionssm.pointcloud.variants import create_detector
from visionssm.pointcloud.voxels import Sites

Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How large the cases are.

    Attributes:
        group, dim: tokens of a group and channels of the operators.
        heads: of the attention beside them.
        voxels: of a frame, in a grid of `shape`.
        shape: Z, Y, X.
        boxes: that are suppressed; the reference takes a part of them and is scaled by the number of pairs.
        reference_boxes: that part.
        detector: whose stages are measured, with `points` points.
        points: of that frame.
    """

    group: int = 4096
    dim: int = 64
    heads: int = 4
    voxels: int = 16_000
    shape: tuple[int, int, int] = (32, 400, 352)
    boxes: int = 4096
    reference_boxes: int = 192
    detector: str = "lion_mamba_kitti"
    points: int = 18_000


TINY = Scale(
    group=64,
    dim=16,
    voxels=300,
    shape=(8, 20, 20),
    boxes=64,
    reference_boxes=16,
    detector="lion_mamba_nano",
    points=500,
)
"""To see whether everything runs."""


class Attention(nn.Module):
    """PyTorch's attention over the tokens of every group."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.inside, self.outside, self.heads = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), heads

    def forward(self, x: Tensor) -> Tensor:
        """(groups, G, C) to the same shape."""
        q, k, v = self.inside(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return x + self.outside(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def quadratic_mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """`mlstm` by its definition, with a matrix over all pairs of tokens."""
    total = F.logsigmoid(f).cumsum(1).transpose(1, 2)  # (B, H, L)
    later = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).triu(1)
    d = (total[..., :, None] - total[..., None, :] + i.transpose(1, 2)[..., None, :]).masked_fill(later, -math.inf)
    highest = d.amax(-1, keepdim=True)
    scores = torch.einsum("blhd,bmhd->bhlm", q, k) / math.sqrt(q.shape[-1]) * (d - highest).exp()
    least = torch.maximum(scores.sum(-1, keepdim=True).abs(), (-highest).exp()) + 1e-6
    return torch.einsum("bhlm,bmhd->blhd", scores / least, v)


def voxels_of(scale: Scale, count: int) -> Sites:
    """So many voxels near the ground of a grid, more of them near the sensor, as a sweep has them."""
    generator = torch.Generator().manual_seed(0)
    depth, height, width = scale.shape
    found = torch.empty(0, 4, dtype=torch.long)
    while len(found) < count:
        draws = torch.rand(4 * count, 3, generator=generator)
        z = (draws[:, 0] ** 2 * depth).long()
        y = ((draws[:, 1] - 0.5) * draws[:, 2] * height + height / 2).long().clamp(0, height - 1)
        x = (draws[:, 2] ** 1.5 * width).long()
        found = torch.unique(torch.cat([found, torch.stack([torch.zeros_like(z), z, y, x], 1)]), dim=0)
    keep = torch.randperm(len(found), generator=generator)[:count].sort().values
    return Sites(found[keep], scale.shape, 1)


def fresh(sites: Sites) -> Sites:
    """The same voxels without tables that were made of them."""
    return Sites(sites.coords, sites.shape, sites.batch_size)


def _trained(run: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], object]:
    """A forward and backward pass."""
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    return lambda: run(*inputs).square().mean().backward()


def _inferred(run: Callable[..., object], *inputs: Any) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return run(*inputs)

    return call


@dataclass
class Table:
    """Rows, and how they are measured.

    Attributes:
        seconds: for each row.
        clock: a name of `CLOCKS`.
        keep: takes the rows so far after each.
        rows: that are measured.
    """

    seconds: float
    clock: str
    keep: Callable[[list[Row]], None]
    rows: list[Row] = field(default_factory=list)

    def ratio(
        self,
        figure: str,
        candidates: Mapping[str, Callable[[], object]],
        goal: str,
        *,
        memory: bool = False,
        factor: float = 1.0,
    ) -> None:
        """The first candidate's seconds beside the second's, and the ratio of the second to the first.

        Args:
            figure: name of the row.
            candidates: two calls by name.
            goal: of the ratio.
            memory: whether the peak memory is measured too.
            factor: by which the second one's work is smaller than the first one's.
        """
        progress(f"{figure} …")
        for run in candidates.values():
            run()  # compiles
        times = medians_in_turn(candidates, seconds=self.seconds, clock=CLOCKS[self.clock])
        (a, first), (b, second) = times.items()
        second *= factor
        grown = [growth(run) for run in candidates.values()] if memory else [None, None]
        share = grown[1] / grown[0] if grown[0] and grown[1] else None
        self.rows.append(
            {"figure": figure, "a": a, "b": b, "a ms": first * 1e3, "b ms": second * 1e3, "b / a": second / first,
             "b / a memory": share, "goal": goal}
        )  # fmt: skip
        self.keep(self.rows)


def operators(table: Table, scale: Scale) -> None:
    """Mamba beside attention, the other operators beside Mamba, xLSTM beside its definition."""
    torch.manual_seed(0)
    x = torch.randn(1, scale.group, scale.dim)
    made = {name: OPERATORS[name](scale.dim, drop_path=0.0, number=0, total=34) for name in OPERATORS}
    mamba, attention = made["mamba"], Attention(scale.dim, scale.heads)
    table.ratio("Mamba, forward", {"Mamba": _inferred(mamba, x), "attention": _inferred(attention, x)}, "≥ 5")
    table.ratio(
        "Mamba, forward + backward", {"Mamba": _trained(mamba, x), "attention": _trained(attention, x)}, "≥ 4.5"
    )
    for name, goal in (("retnet", "≤ 1"), ("rwkv", "≤ 1.5"), ("ttt", "≤ 3")):
        table.ratio(f"{name}, forward + backward", {"Mamba": _trained(mamba, x), name: _trained(made[name], x)}, goal)
    q, k, v = torch.randn(3, 1, scale.group, scale.heads, 2 * scale.dim // scale.heads)
    i, f = torch.randn(1, scale.group, scale.heads), torch.randn(1, scale.group, scale.heads) + 4
    candidates = {"chunks": _inferred(mlstm, q, k, v, i, f), "definition": _inferred(quadratic_mlstm, q, k, v, i, f)}
    table.ratio("xLSTM's cell", candidates, "≥ 5, memory ≥ 10", memory=True)


def parts(table: Table, scale: Scale) -> None:
    """Sparse convolution, suppression, tables of groups, and twice the voxels."""
    sites = voxels_of(scale, scale.voxels)
    neighbours = neighbour_table(sites.coords, scale.shape)
    x, weight = torch.randn(len(sites), scale.dim), torch.randn(27, scale.dim, scale.dim) / 40
    ours, loop = (lambda x, w, run=run: run(x, w, neighbours) for run in (sparse_conv, sparse_conv_reference))
    table.ratio("sparse_conv", {"ours": _inferred(ours, x, weight), "27 gathers": _inferred(loop, x, weight)}, "≥ 2")
    leaves = (x.clone().requires_grad_(), weight.clone().requires_grad_())
    result = ours(*leaves)

    def backward() -> object:
        return torch.autograd.grad(result, leaves, torch.ones_like(result), retain_graph=True)

    table.ratio("sparse_conv, backward", {"forward": _inferred(ours, x, weight), "backward": backward}, "≤ 2.5")

    boxes = torch.rand(scale.boxes, 7) * torch.tensor([70.0, 80, 2, 3, 1, 1, 6]) + torch.tensor([0, 0, 0, 1.0, 1, 1, 0])
    scores, some = torch.rand(scale.boxes), scale.reference_boxes

    def reference() -> object:
        a, b = boxes[:some, None].expand(-1, some, -1), boxes[None, :some].expand(some, -1, -1)
        shared, area = overlap_reference(a, b), boxes[:some, 3] * boxes[:some, 4]
        return nms_reference(shared / (area[:, None] + area - shared), scores[:some], 0.1)

    nms = {"ours": _inferred(rotated_nms, boxes, scores, 0.1), f"reference, scaled from {some} boxes": reference}
    pairs = (scale.boxes / some) ** 2
    table.ratio(f"rotated NMS of {scale.boxes} boxes", nms, "≥ 50", factor=pairs)

    partition = Partition((13, 13, scale.shape[0]), scale.group)
    layer = LionLayer([OPERATORS["mamba"](scale.dim, drop_path=0.0, number=n, total=34) for n in range(2)], partition)
    kept = fresh(sites)
    partition.of(kept)
    table.ratio(
        "tables of groups beside a layer",
        {"layer": _inferred(layer, x, kept), "tables": lambda: partition.of(fresh(sites))},
        "≤ 0.1",
    )


def networks(table: Table, scale: Scale) -> None:
    """The 3-D backbone of KITTI's model beside one whose operators do nothing, and with twice the voxels."""
    whole, empty = (LionBackbone(scale.dim, drop_path=0.0) for _ in range(2))
    for module in empty.modules():
        if isinstance(module, LionLayer):
            module.blocks = nn.ModuleList(nn.Identity() for _ in module.blocks)
    sites = voxels_of(scale, scale.voxels)
    twice = voxels_of(scale, 2 * scale.voxels)
    x, more = (torch.randn(len(s), scale.dim) for s in (sites, twice))

    def run(model: nn.Module, x: Tensor, sites: Sites) -> Tensor:
        output: Tensor = model(x, fresh(sites)).output[0]
        return output

    one = _inferred(run, whole.eval(), x, sites)
    table.ratio(
        "backbone, inference",
        {"identity": _inferred(run, empty.eval(), x, sites), "Mamba": one},
        "≤ 2.5, memory ≤ 1.5",
        memory=True,
    )
    table.ratio(
        "backbone, twice the voxels", {"once": one, "twice": _inferred(run, whole, more, twice)},
        "≤ 2.2, memory ≤ 2.1", memory=True,
    )  # fmt: skip
    trained = {
        name: _trained(lambda x, model=model: run(model, x, sites), x)
        for name, model in (("identity", empty.train()), ("Mamba", whole.train()))
    }
    table.ratio("backbone, training step", trained, "≤ 3, memory ≤ 1.5", memory=True)
    whole.set_grad_checkpointing()
    table.ratio("the same, operators run twice", trained, "memory ≤ 1.5", memory=True)


def stages(scale: Scale) -> list[Row]:
    """Seconds, voxels and memory of every part of a detector on one frame."""
    detector = create_detector(scale.detector).eval()
    generator = torch.Generator().manual_seed(0)
    low, high = torch.tensor(detector.grid.point_range).view(2, 3)
    draws = torch.rand(scale.points, 3, generator=generator)
    points = low + (high - low) * draws ** torch.tensor([1.5, 1.0, 2.0])
    cloud = torch.cat([points, torch.rand(scale.points, detector.point_features - 3, generator=generator)], 1)
    rows: list[Row] = []

    def measured(name: str, run: Callable[[], Any], voxels: Callable[[Any], int | None]) -> Any:
        made: list[Any] = []

        def call() -> None:
            with torch.inference_mode():
                made[:] = [run()]

        seconds = medians_in_turn({name: call}, seconds=0.0, clock=CLOCKS["processor"])[name]
        grown = growth(call)
        rows.append({"part": name, "ms": seconds * 1e3, "voxels": voxels(made[0]), "MiB": grown and grown / 2**20})
        return made[0]

    vfe: Any = detector.vfe
    backbone: Any = detector.backbone_3d
    x, sites = measured("voxel features", lambda: vfe([cloud]), lambda y: len(y[1]))

    def stage(number: int, x: Tensor, sites: Sites) -> Any:
        return backbone.generations[number](backbone.stages[number](x, fresh(sites)), fresh(sites))

    for number in range(len(backbone.stages)):
        run = partial(stage, number, x, sites)
        x, sites, _ = measured(f"stage {number + 1}", run, lambda y: len(y[1]))
    x = measured("last layer", lambda: backbone.last[0](x, fresh(sites)), len)
    net: Any = detector.backbone_2d
    seen = measured("BEV net", lambda: net(seen_from_above(x, sites)), lambda _: None)
    head = measured("head", lambda: detector.dense_head(seen), lambda _: None)
    measured("boxes and NMS", lambda: detector.dense_head.detections(head), lambda _: None)
    return rows


def run(
    *,
    seconds: float = 6.0,
    clock: str = "wall",
    scale: Scale | None = None,
    keep: Callable[[list[Row]], None] = lambda _: None,
) -> tuple[list[Row], list[Row]]:
    """Rows of ratios, and rows of a detector's parts.

    Args:
        seconds: for each ratio.
        clock: "wall", or "processor" while others use the machine.
        scale: of the cases; None for the published sizes.
        keep: takes the ratios so far after each, so that a run that is broken off leaves what it measured.
    """
    scale = scale or Scale()
    table = Table(seconds, clock, keep)
    operators(table, scale)
    parts(table, scale)
    networks(table, scale)
    progress("parts of the detector …")
    return table.rows, stages(scale)

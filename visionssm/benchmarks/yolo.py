"""Mamba-YOLO on the CPU: what its scans cost, and what it takes beside torchvision's detectors; ratios of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, ssdlite320_mobilenet_v3_large

from visionssm.benchmarks.memory import fresh_growth
from visionssm.benchmarks.networks import scanning_with
from visionssm.benchmarks.timing import CLOCKS, STEP_BY_STEP, medians_in_turn, progress, ratio_row
from visionssm.heads.yolo import MambaYolo, create_yolo, decode, suppress
from visionssm.heads.yolo.assign import CANDIDATES, OVERLAP_POWER, SCORE_POWER, Assignment, assign
from visionssm.heads.yolo.boxes import complete_iou
from visionssm.heads.yolo.head import grid_points

Row = dict[str, Any]
TURN = 0.4  # seconds: a few inferences, so that none is measured on the caches that another network leaves


@dataclass(frozen=True)
class Scale:
    """How large the cases are.

    Attributes:
        name: of the network.
        side: of the images of an inference, a multiple of 32.
        small: of those beside the small detector and in training.
        batch: images of a training step.
        boxes: true boxes of the assignment.
        objects: boxes of which the overlapping ones are left out.
    """

    name: str = "mambayolo_t"
    side: int = 640
    small: int = 320
    batch: int = 4
    boxes: int = 100
    objects: int = 300


TINY = Scale("mambayolo_nano", side=64, small=64, batch=2, boxes=5, objects=20)
"""To see whether everything runs."""


def infer(model: nn.Module, images: Any, scan: str = "ours") -> None:
    """Forward pass without gradients, with a scan of `visionssm.benchmarks.networks.SCANS`."""
    with torch.inference_mode(), scanning_with(scan):
        model(images)


def train(model: nn.Module, images: Tensor, scan: str = "ours") -> None:
    """Forward and backward pass."""
    model.zero_grad()
    with scanning_with(scan):
        loss = torch.stack([level.square().mean() for level in model(images)]).sum()
        loss.backward()


def images_of(batch: int, side: int) -> Tensor:
    """Of noise."""
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def assign_by_loops(
    scores: Tensor, boxes: Tensor, points: Tensor, truth: Tensor, labels: Tensor, valid: Tensor
) -> Assignment:
    """`assign` box by box and point by point."""
    taken = torch.full(boxes.shape[:2], -1)
    weight = torch.zeros(boxes.shape[:2])
    for image in range(len(boxes)):
        metric: dict[int, dict[int, float]] = {}
        overlap: dict[int, dict[int, float]] = {}
        for number in range(truth.shape[1]):
            if not valid[image, number]:
                continue
            left, top, right, bottom = truth[image, number].tolist()
            metric[number], overlap[number] = {}, {}
            for place, (x, y) in enumerate(points.tolist()):
                if left < x < right and top < y < bottom:
                    agreement = max(float(complete_iou(truth[image, number], boxes[image, place])), 0.0)
                    score = float(scores[image, place, labels[image, number]])
                    overlap[number][place] = agreement
                    metric[number][place] = score**SCORE_POWER * agreement**OVERLAP_POWER
        claims: dict[int, list[int]] = {}
        for number, values in metric.items():
            for place in sorted(values, key=values.__getitem__, reverse=True)[:CANDIDATES]:
                if values[place] > 0:
                    claims.setdefault(place, []).append(number)
        chosen: dict[int, list[int]] = {}
        for place, numbers in claims.items():
            rivals = [n for n in overlap if place in overlap[n]] if len(numbers) > 1 else numbers
            winner = max(rivals, key=lambda n: overlap[n][place])
            chosen.setdefault(winner, []).append(place)
        for number, places in chosen.items():
            strongest = max(metric[number][place] for place in places)
            largest = max(overlap[number][place] for place in places)
            for place in places:
                taken[image, place] = number
                weight[image, place] = metric[number][place] / (strongest + 1e-9) * largest
    return Assignment(taken, weight)


def assignment_case(boxes: int, side: int = 640) -> tuple[Tensor, ...]:
    """Predictions near so many true boxes of one image: the arguments of `assign`."""
    generator = torch.Generator().manual_seed(0)
    points, _ = grid_points([(side // 8,) * 2, (side // 16,) * 2, (side // 32,) * 2])
    centre = torch.rand(1, boxes, 2, generator=generator) * side
    half = (torch.rand(1, boxes, 2, generator=generator) * 0.2 + 0.02) * side
    truth = torch.cat([centre - half, centre + half], dim=-1)
    nearest = torch.cdist(points, centre[0]).argmin(1)
    predicted = truth[:, nearest] + torch.randn(1, len(points), 4, generator=generator) * 0.02 * side
    scores = torch.rand(1, len(points), 80, generator=generator)
    labels = torch.randint(80, (1, boxes), generator=generator)
    return scores, predicted, points, truth, labels, torch.ones(1, boxes, dtype=torch.bool)


def object_maps(side: int, objects: int, num_classes: int = 80) -> list[Tensor]:
    """Maps of the network with so many certain points."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(side // stride,) * 2 for stride in MambaYolo.strides]
    maps = [torch.randn(1, 64 + num_classes, *shape, generator=generator) for shape in shapes]
    for level in maps:
        level[:, 64:] -= 10
    finest = maps[0][0, 64:].view(num_classes, -1)
    places = torch.randperm(finest.shape[1], generator=generator)[:objects]
    finest[torch.randint(num_classes, (len(places),), generator=generator), places] = 4
    return maps


def found_in(maps: list[Tensor]) -> Tensor:
    """Boxes that are left of one image's maps."""
    with torch.inference_mode():
        (boxes,), (scores,) = decode(maps)
        return suppress(boxes, scores).boxes


def training_step(scale: Scale, scan: str) -> Callable[[], object]:
    """A warm training step."""
    model = create_yolo(scale.name)
    train(model, images_of(1, 64), scan)  # compiles kernels and allocates gradients
    return partial(train, model, images_of(scale.batch, scale.small), scan)


def run(*, seconds: float = 30.0, clock: str = "wall", scale: Scale | None = None) -> list[Row]:
    """All rows.

    Args:
        seconds: for what is measured in turn, each time.
        clock: "wall", or "processor" while others use the machine.
        scale: of the cases; None for the published sizes.
    """
    scale = scale or Scale()

    def in_turn(what: str, candidates: Mapping[str, Callable[[], object]], turn: float = TURN) -> dict[str, float]:
        progress(f"{what} …")
        return medians_in_turn(candidates, seconds=seconds, turn=turn, clock=CLOCKS[clock], once=STEP_BY_STEP)

    torch.manual_seed(0)
    model = create_yolo(scale.name).eval()
    large, small = images_of(1, scale.side), images_of(1, scale.small)
    two_stages = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=scale.side, max_size=scale.side
    ).eval()
    runs: dict[str, Callable[[], object]] = {
        name: partial(infer, model, large, scan)
        for name, scan in (("ours", "ours"), ("identity scans", "identity"), ("published layout", "published"))
    }
    maps = object_maps(scale.side, scale.objects)
    runs |= {"Faster R-CNN": partial(infer, two_stages, large), "decoding and NMS": partial(found_in, maps)}
    infer(model, large)  # compiles
    times = in_turn("inference", runs)
    what = f"{scale.name}, inference at {scale.side}, batch 1"
    rows = [
        ratio_row(what, "≤ 1.5", times, "ours", "identity scans"),
        ratio_row(what, "≥ 30", times, "published layout", "ours"),
        ratio_row(f"{what}, beside fasterrcnn_resnet50_fpn", "≤ 1", times, "ours", "Faster R-CNN"),
        ratio_row(f"decoding and NMS of {scale.objects} boxes", "≤ 0.05", times, "decoding and NMS", "ours"),
    ]

    one_stage = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    times = in_turn("inference beside SSDlite", {"ours": partial(infer, model, small),
                                                 "SSDlite": partial(infer, one_stage, small)})  # fmt: skip
    what = f"{scale.name}, inference at {scale.small}, batch 1, beside ssdlite320_mobilenet_v3_large"
    rows.append(ratio_row(what, "printed", times, "ours", "SSDlite"))

    trained = create_yolo(scale.name).train()
    batch = images_of(scale.batch, scale.small)
    steps = {
        name: partial(train, trained, batch, scan) for name, scan in (("ours", "ours"), ("identity scans", "identity"))
    }
    times = in_turn("training", steps)
    what = f"{scale.name}, training step at {scale.small}, batch {scale.batch}"
    rows.append(ratio_row(what, "≤ 1.7", times, "ours", "identity scans"))
    progress("memory of a training step …")
    grown = {
        name: fresh_growth(partial(training_step, scale, scan)) / 2**20
        for name, scan in (("ours", "ours"), ("identity scans", "identity"))
    }
    rows.append(ratio_row(f"{what}, peak memory", "≤ 1.25", grown, "ours", "identity scans", "MiB"))

    case = assignment_case(scale.boxes, scale.side)
    times = in_turn("assigner", {"loops": partial(assign_by_loops, *case), "ours": partial(assign, *case)}, turn=0.02)
    points = len(case[2])
    rows.append(ratio_row(f"assigner of {points:,} points and {scale.boxes} boxes", "≥ 50", times, "loops", "ours"))
    return rows

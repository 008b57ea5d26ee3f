"""Pose estimators on the CPU: ratios of one run, beside the goals that they have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from visionssm.benchmarks.timing import CLOCKS, medians_in_turn, progress
from visionssm.data.keypoints import COCO_NAMES, skeleton_of
from visionssm.heads.pose import HeatmapHead, affine, create_pose, decode, flip_maps
from visionssm.tasks.pose.pictures import draw_people

Row = dict[str, Any]

SKELETON = skeleton_of({"keypoints": list(COCO_NAMES), "skeleton": [[a, a + 2] for a in range(4, 16)]})


@dataclass(frozen=True)
class Scale:
    """How large the cases are.

    Attributes:
        name: pose estimator.
        peer: timm's high-resolution network beside it.
        batches: crops at a time, for inference.
        batch: crops at a time, for a training step and the flip test.
        people: whose key points are read from heat maps, whose crops are cut out, and who are drawn.
        photo: height and width of the image that they are in.
        turn: seconds of a turn: a few inferences, so that none is measured on the caches that another network leaves.
    """

    name: str = "hrvmamba_small_pose_256x192"
    peer: str = "hrnet_w18"
    batches: tuple[int, ...] = (1, 8)
    batch: int = 8
    people: int = 32
    photo: tuple[int, int] = (720, 1280)
    turn: float = 0.4


TINY = Scale(
    name="hrvmamba_nano_pose", peer="hrnet_w18_small", batches=(1,), batch=2, people=3, photo=(64, 96), turn=0.0
)
"""To see whether everything runs."""


class HRNetPose(nn.Module):
    """timm's HRNet (Wang et al. 2020, arXiv 1908.07919) to heat maps, of the highest resolution as ours.

    Like ours, it computes no output of its last module but that one.

    Args:
        name: of timm's model.
        num_keypoints: K.
    """

    def __init__(self, name: str, num_keypoints: int = 17) -> None:
        super().__init__()
        body: Any = timm.create_model(name)
        del body.incre_modules, body.downsamp_modules, body.final_layer, body.classifier
        last = body.stage4[-1]
        last.fuse_layers = last.fuse_layers[:1]
        self.body = body
        self.head = HeatmapHead(last.get_num_in_chs()[0], num_keypoints)

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K, H/4, W/4)."""
        body: Any = self.body
        x = body.act1(body.bn1(body.conv1(crops)))
        x = body.act2(body.bn2(body.conv2(x)))
        return self.head(body.stages(x)[0])


def _infer(model: nn.Module, crops: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(crops)


def _train(model: nn.Module, crops: Tensor, maps: Tensor) -> None:
    model.zero_grad()
    F.mse_loss(model(crops), maps).backward()


def _flip_test(model: nn.Module, crops: Tensor) -> Tensor:
    return (_infer(model, crops) + flip_maps(_infer(model, crops.flip(-1)), SKELETON.flip_pairs)) / 2


def _crops(batch: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def against_peer(scale: Scale, *, seconds: float, clock: str) -> list[Row]:
    """Inference of ours and of timm's network, for each batch."""
    ours, peer = create_pose(scale.name).eval(), HRNetPose(scale.peer).eval()
    rows = []
    for batch in scale.batches:
        progress(f"{scale.name} and {scale.peer}, batch {batch} …")
        crops = _crops(batch, ours.crop_size)
        runs: dict[str, Callable[[], object]] = {
            "ours": partial(_infer, ours, crops),
            "peer": partial(_infer, peer, crops),
        }
        times = medians_in_turn(runs, seconds=seconds, turn=scale.turn, clock=CLOCKS[clock])
        rows.append(_row(f"inference, batch {batch} / timm's {scale.peer}", times["ours"], times["peer"], 2.0))
    return rows


def training_and_flip_test(scale: Scale, *, seconds: float, clock: str) -> list[Row]:
    """A forward and backward pass, and an inference with the mirrored crops, beside a plain inference."""
    ours, trained = create_pose(scale.name).eval(), create_pose(scale.name).train()
    crops = _crops(scale.batch, ours.crop_size)
    maps = torch.rand(_infer(ours, crops[:1]).shape).expand(scale.batch, -1, -1, -1)
    runs: dict[str, Callable[[], object]] = {
        "single": partial(_infer, ours, crops),
        "step": partial(_train, trained, crops, maps),
        "flip test": partial(_flip_test, ours, crops),
    }
    progress(f"{scale.name}, training step and flip test, batch {scale.batch} …")
    times = medians_in_turn(runs, seconds=seconds, turn=scale.turn, clock=CLOCKS[clock])
    return [
        _row(f"training step / inference, batch {scale.batch}", times["step"], times["single"], 4.0),
        _row(f"flip test / single, batch {scale.batch}", times["flip test"], times["single"], 2.1),
    ]


def beside_the_network(scale: Scale, *, seconds: float, clock: str) -> list[Row]:
    """What is done for people beside the network: crops, key points from heat maps, places in the image, drawing."""
    ours = create_pose(scale.name).eval()
    size = ours.crop_size
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (*scale.photo, 3), dtype=np.uint8)
    corners = rng.random((scale.people, 2)) * np.array(scale.photo[::-1]) / 2
    boxes = np.concatenate([corners, corners + np.array(scale.photo[::-1]) / 2], 1)
    regions = list(zip(*affine.box_to_centre_scale(boxes, size), strict=True))
    crops = _crops(scale.people, size)
    maps = rng.random(_infer(ours, crops).shape, dtype=np.float32)

    def rest() -> None:
        matrices = [affine.matrix(centre, extent, 0.0, size) for centre, extent in regions]
        np.stack([affine.warp(photo, matrix, size) for matrix in matrices])
        points, scores = decode(maps)
        placed = [affine.transform(x, affine.inverse(matrix)) for x, matrix in zip(points, matrices, strict=True)]
        people = [np.column_stack(person) for person in zip(placed, scores, strict=True)]
        draw_people(Image.fromarray(photo), people, SKELETON, boxes.tolist(), threshold=0.2)

    progress(f"crops, decoding and drawing of {scale.people} people …")
    runs: dict[str, Callable[[], object]] = {"network": partial(_infer, ours, crops), "rest": rest}
    times = medians_in_turn(runs, seconds=seconds, turn=scale.turn, clock=CLOCKS[clock])
    return [
        _row(f"decoding, affine and drawing of {scale.people} people / network", times["rest"], times["network"], 0.1)
    ]


def _row(what: str, ours: float, other: float, goal: float) -> Row:
    return {"figure": what, "ms": ours * 1e3, "beside ms": other * 1e3, "ratio": ours / other, "goal": goal}


def run(*, seconds: float = 45.0, clock: str = "wall", scale: Scale | None = None) -> list[Row]:
    """All rows of the table; `seconds` for each measurement."""
    scale = scale or Scale()
    rows: list[Row] = []
    for measure in (against_peer, training_and_flip_test, beside_the_network):
        rows += measure(scale, seconds=seconds, clock=clock)
    return rows

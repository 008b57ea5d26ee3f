"""Boxes, anchors and whole detectors: codes, targets, what is found, official files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import visionssm
from tests.reference_cases import recorded_case
from visionssm.checkpoints import CheckpointError
from visionssm.pointcloud.boxes import Detections, Truth, corners, decode, encode, inside, nearest_bev_iou, suppressed
from visionssm.pointcloud.detector import LionDetector
from visionssm.pointcloud.heads.anchor import NO_BOX, AnchorHead, AnchorPredictions
from visionssm.pointcloud.heads.center import CenterHead
from visionssm.pointcloud.keys import checkpoint_filter_fn
from visionssm.pointcloud.variants import VARIANTS, arguments_of
from visionssm.pointcloud.voxels import Grid

CAR = {"size": (4.0, 1.6, 1.5), "bottom": -1.8, "matched": 0.6, "unmatched": 0.45}
WALKER = {"size": (0.8, 0.6, 1.7), "bottom": -1.8, "matched": 0.5, "unmatched": 0.35}
GRID = Grid((0, -8, -3, 16, 8, 1), (0.5, 0.5, 0.5))


def random_boxes(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([0, -8, -2, 3, 1, 1, -math.pi]), torch.tensor([16, 8, 0, 5, 2, 2, math.pi])
    return low + (high - low) * torch.rand(count, 7, generator=generator)


def test_decoding_undoes_encoding() -> None:
    boxes, anchors = random_boxes(50), random_boxes(50, seed=1)
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, rtol=1e-5, atol=1e-5)


def test_corners_are_where_the_box_ends_and_points_between_them_are_inside() -> None:
    boxes = random_boxes(10).double()
    ends = corners(boxes)
    torch.testing.assert_close(ends.mean(1), boxes[:, :3])
    torch.testing.assert_close((ends[:, 0] - ends[:, 1]).norm(dim=1), boxes[:, 3])
    torch.testing.assert_close((ends[:, 0] - ends[:, 3]).norm(dim=1), boxes[:, 4])
    torch.testing.assert_close(ends[:, 4, 2] - ends[:, 0, 2], boxes[:, 5])
    front = (ends[:, 0] + ends[:, 3] - ends[:, 1] - ends[:, 2])[:, :2] / 2
    torch.testing.assert_close(front / boxes[:, 3:4], torch.stack([boxes[:, 6].cos(), boxes[:, 6].sin()], 1))
    centre = boxes[:, None, :3]
    assert inside((centre + 0.999 * (ends - centre))[3], boxes[3:4]).all()
    assert not inside((centre + 1.001 * (ends - centre))[3], boxes[3:4]).any()


def test_overlap_of_boxes_turned_to_the_nearer_axis_is_that_of_their_rectangles() -> None:
    a = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0.1], [0, 0, 0, 4, 2, 1, math.pi / 2 + 0.1]])
    b = torch.tensor([[0.0, 0, 0, 4, 2, 1, math.pi], [1, 0, 0, 4, 2, 1, 0]])
    torch.testing.assert_close(nearest_bev_iou(a, b), torch.tensor([[1.0, 0.6], [1 / 3, 1 / 3]]))


def head() -> AnchorHead:
    return AnchorHead(8, GRID, 2, anchors=[CAR, WALKER])


def perfect(head: AnchorHead, truths: list[Truth], size: tuple[int, int] = (33, 33)) -> AnchorPredictions:
    """What a head that is always right would say."""
    shape = (len(truths), *size)
    empty = AnchorPredictions(*(torch.zeros(*shape, 4 * n) for n in (2, 7, 2)))
    anchors = head.anchors(empty)
    scores, codes, directions = (torch.zeros(len(truths), len(anchors), n) for n in (2, 7, 2))
    scores -= 12
    for number, truth in enumerate(truths):
        labels, positives, boxes = head.targets(truth, anchors)
        scores[number, positives, labels[positives] - 1] = 12
        codes[number, positives] = encode(boxes, anchors[positives])
        ahead = torch.remainder(boxes[:, 6] - 0.78539, 2 * math.pi) >= math.pi
        directions[number, positives, ahead.long()] = 30
    return AnchorPredictions(scores.view(*shape, -1), codes.view(*shape, -1), directions.view(*shape, -1))


TRUTH = Truth(
    torch.tensor([[4.0, 2, -1, 4.1, 1.7, 1.5, 0.3], [9, -3, -1, 3.8, 1.6, 1.4, -2.8], [12, 5, -1, 0.9, 0.6, 1.8, 1.7]]),
    torch.tensor([0, 0, 1]),
)
NOTHING = Truth(torch.zeros(0, 7), torch.zeros(0, dtype=torch.long))


def test_a_perfect_head_finds_every_box_once_and_has_no_loss() -> None:
    net = head()
    predictions = perfect(net, [TRUTH, NOTHING])
    first, second = net.detections(predictions)
    order = first.boxes[:, 0].argsort()
    turned = torch.remainder(first.boxes[order, 6] - TRUTH.boxes[:, 6] + 1, 2 * math.pi) - 1
    torch.testing.assert_close(first.boxes[order, :6], TRUTH.boxes[:, :6], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turned, torch.zeros(3), rtol=0, atol=1e-4)
    assert first.labels[order].tolist() == [0, 0, 1]
    assert len(second.scores) == 0
    assert all(loss < 1e-6 for loss in net.losses(predictions, [TRUTH, NOTHING]).values())


def test_every_box_has_an_anchor_and_other_classes_anchors_are_background() -> None:
    net = head()
    anchors = net.anchors(perfect(net, [NOTHING]))
    assert (net.targets(NOTHING, anchors).labels == NO_BOX).all()
    tiny = Truth(torch.tensor([[8.1, 0.1, -1, 0.3, 0.2, 1, 0.5]]), torch.tensor([1]))
    labels, positives, boxes = net.targets(tiny, anchors)
    assert len(positives) >= 1
    assert torch.equal(boxes, tiny.boxes.expand(len(positives), 7))
    assert (labels.view(-1, 2, 2)[:, 0] == NO_BOX).all()


def test_no_score_below_the_threshold_and_no_two_overlapping_boxes_are_given() -> None:
    net = head()
    torch.manual_seed(0)
    predictions = AnchorPredictions(*(torch.randn(1, 17, 17, 4 * n) for n in (2, 7, 2)))
    (found,) = net.detections(predictions)
    assert (found.scores >= net.least_score).all()
    assert (found.scores.diff() <= 0).all()
    iou = visionssm.rotated_iou(found.boxes[:, None], found.boxes)
    assert (iou - torch.eye(len(iou)) <= net.overlap + 1e-6).all()


def centre_head(**options: Any) -> CenterHead:
    torch.manual_seed(0)
    return CenterHead(8, GRID, 2, channels=4, **options).eval()


@pytest.mark.parametrize("overlaps", [(0.1,), (0.1, 0.3)])
def test_a_perfect_centre_head_finds_every_box_once_and_has_no_loss_of_boxes(overlaps: tuple[float, ...]) -> None:
    net = centre_head(overlaps=overlaps)
    target = net.targets(TRUTH, (32, 32), 2)
    assert (target.heat == 1).sum() == 3
    predictions = {name: x.clone() for name, x in net(torch.zeros(2, 8, 32, 32)).items()}
    predictions["hm"].fill_(-9)
    for label, cell, code in zip(TRUTH.labels, target.cells, target.codes, strict=True):
        row, column = int(cell) // 32, int(cell) % 32
        predictions["hm"][0, label, row, column] = 9
        for name, part in zip(("center", "center_z", "dim", "rot"), code.split([2, 1, 3, 2]), strict=True):
            predictions[name][0, :, row, column] = part
    first, second = net.detections(predictions)
    order = first.boxes[:, 0].argsort()
    torch.testing.assert_close(first.boxes[order], TRUTH.boxes, rtol=1e-4, atol=1e-4)
    assert first.labels[order].tolist() == TRUTH.labels.tolist()
    assert len(second.scores) == 0
    losses = net.losses(predictions, [TRUTH, NOTHING])
    assert losses["loss_box"] < 1e-5
    assert losses["loss_heat"] < 0.1
    assert "loss_iou" not in losses


def test_scores_of_centres_are_rectified_by_the_overlap_that_is_expected() -> None:
    net = centre_head(rectify=(0.5, 0.5), least_score=0.0, limits=(-99.0, -99, -99, 99, 99, 99))
    predictions = {name: x.clone() for name, x in net(torch.zeros(1, 8, 4, 4)).items()}
    predictions["hm"].fill_(0)
    predictions["iou"].fill_(-0.5)  # a quarter
    (found,) = net.detections(predictions)
    torch.testing.assert_close(found.scores, torch.full_like(found.scores, (0.5 * 0.25) ** 0.5))
    loss = net.losses(predictions, [TRUTH])["loss_iou"]
    assert loss.isfinite()
    assert net.losses(predictions, [NOTHING])["loss_iou"] == 0


def test_boxes_without_a_size_are_no_finding() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0], [5, 0, 0, math.inf, 1, 1, 0]])
    found = suppressed(Detections(boxes, torch.tensor([0.5, 0.9]), torch.zeros(2, dtype=torch.long)), 0.1, 10, 10)
    assert found.boxes.tolist() == boxes[:1].tolist()


def cloud(count: int = 400) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 4, generator=generator) * torch.tensor([30, 20, 3, 1]) - torch.tensor([0, 10, 2, 0])


def test_every_parameter_of_a_detector_is_trained() -> None:
    torch.manual_seed(0)
    detector = visionssm.create_detector("lion_mamba_nano")
    truth = Truth(torch.tensor([[10.0, 2, -1, 4, 1.6, 1.5, 0.3]]), torch.tensor([0]))
    losses = detector.losses([cloud(), cloud(50)], [truth, NOTHING])
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, x in detector.named_parameters() if x.grad is None or not x.grad.any()] == []


@pytest.mark.parametrize("points", [torch.zeros(0, 4), torch.full((20, 4), 500.0), cloud(1)])
def test_sweeps_with_nothing_in_range_and_single_points_are_detected_in(points: Tensor) -> None:
    torch.manual_seed(0)
    detector = visionssm.create_detector("lion_mamba_nano").eval()
    with torch.no_grad():
        alone, _ = detector.detections([points, cloud()])
    assert alone.boxes.shape[1] == 7
    assert alone.boxes.isfinite().all()


def test_half_precision_gives_finite_losses() -> None:
    torch.manual_seed(0)
    detector = visionssm.create_detector("lion_mamba_nano")
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector.losses([cloud()], [NOTHING])
    assert all(loss.isfinite() for loss in losses.values())


def test_authors_file_of_either_layout_is_loaded_strictly(tmp_path: Path) -> None:
    case = recorded_case("lion", "state_kitti_mamba")
    state = {name: torch.rand(shape) for name, shape in case.data["state"].items()}
    state = {name: torch.tensor(1) if "num_batches" in name else x for name, x in state.items()}
    state["global_step"] = torch.tensor([7])
    files = {"new": state, "old": {n: x.movedim(0, -1) if "sub_conv.0" in n else x for n, x in state.items()}}
    for name, weights in files.items():
        path = tmp_path / f"{name}.pth"
        torch.save({"model_state": weights, "epoch": 80, "it": 7, "optimizer_state": None, "version": "none"}, path)
        detector = visionssm.create_detector("lion_mamba_kitti", pretrained=path)
        convolution = detector.backbone_3d.stages[0].downsample_list[1].sub_conv[0].weight  # type: ignore[union-attr,index]
        assert torch.equal(convolution, state["backbone_3d.linear_1.downsample_list.1.sub_conv.0.weight"])
        wanted = checkpoint_filter_fn(state, detector)
        assert all(torch.equal(x, wanted[key]) for key, x in detector.state_dict().items())
    del state["dense_head.conv_cls.bias"]
    with pytest.raises(CheckpointError, match=r"dense_head\.conv_cls\.bias"):
        visionssm.load_official(visionssm.create_detector("lion_mamba_kitti"), {"model_state": state})


def test_our_own_names_stay() -> None:
    detector = visionssm.create_detector("lion_mamba_nano")
    state = detector.state_dict()
    assert checkpoint_filter_fn(state, detector).keys() == state.keys()


def test_changes_of_a_variant_reach_into_its_parts() -> None:
    arguments = arguments_of("lion_mamba_nano", {"dim": 24, "backbone": {"group_sizes": (64, 32)}})
    assert arguments["dim"] == 24
    assert arguments["backbone"]["group_sizes"] == (64, 32)
    assert arguments["backbone"]["windows"] == VARIANTS["lion_mamba_nano"]["backbone"]["windows"]
    other = arguments_of("lion_mamba_nano", {"head": {"kind": "other"}})
    assert other["head"] == {"kind": "other"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": {"kind": "no_such"}}, "head.kind='no_such'"),
        ({"bev": {"kind": "no_such"}}, "bev.kind='no_such'"),
        ({"backbone": {"group_sizes": (0, 4)}}, "group_size=0"),
        ({"classes": ("Car",)}, "anchors must be 1"),
        ({"head": {"kind": "center", "overlaps": (0.1, 0.2)}}, r"head\.overlaps must be one number, or 3"),
        ({"head": {"kind": "center", "rectify": (0.1, 0.2)}}, r"head\.rectify must be 3 numbers"),
        ({"voxel_size": (0.0, 1, 1)}, "voxel_size="),
    ],
)
def test_configurations_that_make_no_sense_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        visionssm.create_detector("lion_mamba_nano", **changes)


def test_unknown_detectors_and_unknown_weights_are_told() -> None:
    with pytest.raises(ValueError, match="lion_mamba_kitti"):
        visionssm.create_detector("lion_lstm_kitti")
    with pytest.raises(CheckpointError, match="no checkpoint is known for lion_mamba_nano"):
        visionssm.create_detector("lion_mamba_nano", pretrained=True)
    assert isinstance(visionssm.create_detector("lion_mamba_nano"), LionDetector)


def test_the_momentum_of_all_norms_is_one_number() -> None:
    def momenta(**changes: Any) -> set[float | None]:
        detector = visionssm.create_detector("lion_mamba_nano", **changes)
        return {x.momentum for x in detector.modules() if isinstance(x, (nn.BatchNorm1d, nn.BatchNorm2d))}

    assert momenta(norm_momentum=0.2) == {0.2}
    assert 0.01 in momenta()
    for wrong in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="norm_momentum"):
            visionssm.create_detector("lion_mamba_nano", norm_momentum=wrong)


def test_boxes_have_the_columns_that_the_head_names() -> None:
    head = {"kind": "transfusion", "small": (), "queries": 9}
    cases: list[tuple[dict[str, Any], int]] = [({}, 7), ({"head": head}, 9)]
    for changes, count in cases:
        detector = visionssm.create_detector("lion_mamba_nano", **changes).eval()
        cloud = torch.rand(50, 4) * torch.tensor([30, 9, 2, 1])
        with torch.no_grad():
            (found,) = detector.detections([cloud])
        assert found.boxes.shape[1] == len(detector.box_columns) == count

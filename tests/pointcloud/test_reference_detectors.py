"""LION's heads and whole detectors against numerical cases of the authors' code: targets, losses, gradients, names."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.pointcloud.frames import KITTI, with_real_frames
from tests.pointcloud.test_reference_cases import TOLERANCE, features_of, loaded, recorded
from tests.reference_cases import Case, every_case, gradient_norms, recorded_case, relative_gradient_error
from visionssm.pointcloud.backbone import BACKBONES
from visionssm.pointcloud.bev import seen_from_above
from visionssm.pointcloud.boxes import Truth, encode
from visionssm.pointcloud.detector import LionDetector
from visionssm.pointcloud.heads.anchor import AnchorHead
from visionssm.pointcloud.heads.center import CenterHead
from visionssm.pointcloud.heads.transfusion import TransFusionHead
from visionssm.pointcloud.keys import checkpoint_filter_fn
from visionssm.pointcloud.variants import create_detector
from visionssm.pointcloud.voxels import Grid


def truths_of(entry: dict[str, Any]) -> list[Truth]:
    """Boxes of the samples of a batch; the authors fill up with zeros, and number classes from 1."""
    rows = recorded(entry)
    rows = rows if rows.dim() == 3 else rows[None]
    return [Truth(x[x[:, -1] > 0, :-1], x[x[:, -1] > 0, -1].long() - 1) for x in rows]


def anchors_of(cfg: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "size": kind["anchor_sizes"][0],
            "bottom": kind["anchor_bottom_heights"][0],
            "matched": kind["matched_threshold"],
            "unmatched": kind["unmatched_threshold"],
        }
        for kind in cfg["ANCHOR_GENERATOR_CONFIG"]
    ]


ANCHOR_LOSSES = {"loss_class": "rpn_loss_cls", "loss_box": "rpn_loss_loc", "loss_direction": "rpn_loss_dir"}


def check_losses(case: Case, losses: dict[str, Tensor], names: dict[str, str]) -> None:
    for ours, theirs in names.items():
        assert losses[ours].item() == pytest.approx(case.data["loss"][theirs], rel=TOLERANCE), ours


def check_loss_gradients(case: Case, model: nn.Module, loss: Tensor) -> None:
    loss.backward()
    theirs = Case(case.path)
    theirs.data["grad_norms"] = case.data["loss_grad_norms"]
    norms = gradient_norms(theirs, model, checkpoint_filter_fn)
    worst = {name: relative_gradient_error(*pair) for name, pair in norms.items()}
    assert max(worst.values()) <= TOLERANCE, worst


@every_case("LION anchor head")
def test_anchors_their_targets_and_losses_are_the_authors(case: Case) -> None:
    init = case.data["init"]
    grid = Grid(init["point_cloud_range"], init["voxel_size"])
    head = AnchorHead(init["input_channels"], grid, 3, anchors=anchors_of(init["cfg"]))
    loaded(case, head)
    x = features_of(case)
    predictions = head(x)
    for name, ours in zip(("cls_preds", "box_preds", "dir_cls_preds"), predictions, strict=True):
        assert case.relative_error(name, ours) <= TOLERANCE
    assert case.relative_error("decoded_boxes", head.boxes(predictions)) <= TOLERANCE
    truths = truths_of(case.data["input"]["gt_boxes"])
    anchors = head.anchors(predictions)
    targets = [head.targets(truth, anchors) for truth in truths]
    assert torch.equal(torch.stack([x.labels for x in targets]), recorded(case.data["targets"]["labels"]))
    codes = torch.cat([encode(x.boxes, anchors[x.positives]) for x in targets])
    torch.testing.assert_close(codes, recorded(case.data["targets"]["pos_reg"]), rtol=TOLERANCE, atol=1e-5)
    losses = head.losses(predictions, truths)
    check_losses(case, losses, ANCHOR_LOSSES)
    check_loss_gradients(case, head, torch.stack(list(losses.values())).sum())
    assert x.grad is not None
    assert float(x.grad.norm()) == pytest.approx(case.data["loss_input_grad_norm"], rel=TOLERANCE)


def detector_of(case: Case) -> LionDetector:
    init = case.data["init"]
    model = init["MODEL"]
    bev, backbone = model["BACKBONE_2D"], model["BACKBONE_3D"]
    return LionDetector(
        classes=["Car", "Pedestrian", "Cyclist"],
        point_range=init["point_cloud_range"],
        voxel_size=init["voxel_size"],
        dim=backbone["FEATURE_DIM"],
        backbone={"windows": backbone["WINDOW_SHAPE"], "group_sizes": backbone["GROUP_SIZE"]},
        bev={
            "kind": "plain",
            "layers": bev["LAYER_NUMS"],
            "strides": bev["LAYER_STRIDES"],
            "channels": bev["NUM_FILTERS"],
            "up_strides": bev["UPSAMPLE_STRIDES"],
            "up_channels": bev["NUM_UPSAMPLE_FILTERS"],
        },
        head={"kind": "anchor", "anchors": anchors_of(model["DENSE_HEAD"])},
    )


@pytest.mark.parametrize("kind", BACKBONES)
def test_windows_and_groups_are_the_published_ones_unless_told(kind: str) -> None:
    published = recorded_case("lion", "kitti_mamba_frame000008").data["init"]["MODEL"]["BACKBONE_3D"]
    usual = {name: x.default for name, x in inspect.signature(BACKBONES[kind]).parameters.items()}
    assert list(usual["group_sizes"]) == published["GROUP_SIZE"]
    assert [list(window) for window in usual["windows"]] == published["WINDOW_SHAPE"]


@every_case("LION centre head")
def test_heat_maps_boxes_and_losses_of_centres_are_the_authors(case: Case) -> None:
    init = case.data["init"]
    cfg = init["cfg"]
    grid = Grid(init["point_cloud_range"], init["voxel_size"])
    biased = cfg["USE_BIAS_BEFORE_NORM"]
    head = CenterHead(
        init["input_channels"],
        grid,
        len(init["class_names"]),
        bias=biased,
        norm=(1e-5, 0.1) if biased else (cfg["BN_EPS"], cfg["BN_MOM"]),
        box_weight=cfg["LOSS_CONFIG"]["LOSS_WEIGHTS"]["loc_weight"],
        rectify=cfg["POST_PROCESSING"].get("IOU_RECTIFIER"),
    )
    loaded(case, head)
    x = features_of(case)
    predictions = head(x)
    for name, ours in predictions.items():
        assert case.relative_error(name, ours) <= TOLERANCE
    truths = truths_of(case.data["input"]["gt_boxes"])
    expected = case.data["targets"]
    targets = [head.targets(truth, predictions["hm"].shape[2:], len(init["class_names"])) for truth in truths]
    heat = torch.stack([x.heat for x in targets])
    assert int(heat.count_nonzero()) == expected["heatmap_nonzero"]
    assert float(heat.sum()) == pytest.approx(expected["heatmap_sum"], rel=1e-5)
    for number, target in enumerate(targets):
        there = recorded(expected["masks"])[number] > 0
        assert torch.equal(target.cells, recorded(expected["inds"])[number][there])
        codes = recorded(expected["target_boxes"])[number][there]
        torch.testing.assert_close(target.codes, codes, rtol=TOLERANCE, atol=1e-5)
    for number, (found, overlap) in enumerate(head.best(predictions, 50)):
        theirs = case.data["decode"][f"decoded{number}"]
        assert torch.equal(found.labels, recorded(theirs["labels"]))
        torch.testing.assert_close(found.scores, recorded(theirs["scores"]), rtol=TOLERANCE, atol=0)
        torch.testing.assert_close(found.boxes, recorded(theirs["boxes"]), rtol=TOLERANCE, atol=1e-4)
        if "iou" in theirs:
            torch.testing.assert_close(overlap, recorded(theirs["iou"]), rtol=TOLERANCE, atol=1e-5)
    losses = head.losses(predictions, truths)
    names = {"loss_heat": "hm_loss_head_0", "loss_box": "loc_loss_head_0", "loss_iou": "iou_loss_head_0"}
    check_losses(case, losses, {ours: theirs for ours, theirs in names.items() if ours in losses})
    assert len(losses) == sum("loss_head" in name for name in case.data["loss"])
    check_loss_gradients(case, head, torch.stack(list(losses.values())).sum())
    assert x.grad is not None
    assert float(x.grad.norm()) == pytest.approx(case.data["loss_input_grad_norm"], rel=TOLERANCE)


@every_case("LION query head")
def test_queries_their_boxes_and_losses_are_the_authors(case: Case) -> None:
    init, expected = case.data["init"], case.data["targets"]
    grid = Grid(init["point_cloud_range"], init["voxel_size"])
    queries = init["cfg"]["NUM_PROPOSALS"]
    head = TransFusionHead(init["input_channels"], grid, init["num_class"], queries=queries)
    loaded(case, head)
    x = features_of(case)
    predictions = head(x)
    assert torch.equal(predictions.labels, recorded(case.data["query_labels"]))
    outputs = {**predictions.branches, "dense_heatmap": predictions.heat, "query_heatmap_score": predictions.peaks}
    assert outputs.keys() == case.data["outputs"].keys()
    for name, ours in outputs.items():
        assert case.relative_error(name, ours) <= TOLERANCE, name

    truths = truths_of(case.data["input"]["gt_boxes"])
    heat = torch.stack([head.heat(truth, predictions.heat.shape[2:]) for truth in truths])
    assert float(heat.sum()) == pytest.approx(expected["heatmap_sum"], rel=1e-5)
    assert float(heat.std()) == pytest.approx(expected["heatmap"]["std"], rel=1e-4)
    targets = [head.targets(predictions, number, truth) for number, truth in enumerate(truths)]
    for number, (truth, target) in enumerate(zip(truths, targets, strict=True)):
        labels = torch.full((queries,), init["num_class"])
        labels[target.queries] = truth.labels[target.boxes]
        assert torch.equal(labels, recorded(expected["labels"])[number])
        codes = recorded(expected["bbox_targets"])[number][target.queries]
        torch.testing.assert_close(head.encoded(truth.boxes[target.boxes]), codes, rtol=TOLERANCE, atol=1e-5)
    mean = torch.stack([target.overlaps.mean() for target in targets]).mean()
    assert float(mean) == pytest.approx(expected["mean_iou"], rel=TOLERANCE)

    for number, found in enumerate(head.detections(predictions)):
        theirs = {name: recorded(x) for name, x in case.data["final"][number].items()}
        order = theirs["scores"].argsort(descending=True, stable=True)
        assert torch.equal(found.labels, theirs["labels"][order] - 1)
        torch.testing.assert_close(found.scores, theirs["scores"][order], rtol=TOLERANCE, atol=0)
        torch.testing.assert_close(found.boxes, theirs["boxes"][order], rtol=TOLERANCE, atol=1e-4)
    losses = head.losses(predictions, truths)
    names = {"loss_heat": "loss_heatmap", "loss_class": "loss_cls", "loss_box": "loss_bbox", "loss_iou": "loss_iou"}
    check_losses(case, losses, names)
    check_loss_gradients(case, head, torch.stack(list(losses.values())).sum())
    assert x.grad is not None
    assert float(x.grad.norm()) == pytest.approx(case.data["loss_input_grad_norm"], rel=TOLERANCE)


@with_real_frames
@every_case("LION detector", slow="frame")
def test_detector_on_real_points_is_the_authors(case: Case) -> None:
    init, given = case.data["init"], case.data["input"]
    model = loaded(case, detector_of(case))
    assert list(model.grid.shape) == case.data["grid_size_xyz"][::-1]
    cloud = torch.from_numpy(np.fromfile(KITTI / given["points_file"].split("/", 2)[2], np.float32).reshape(-1, 4))
    low, high = (torch.tensor(x[:2]) for x in (init["point_cloud_range"][:3], init["point_cloud_range"][3:]))
    cloud = cloud[given["offset"] :: given["every"]]
    cloud = cloud[((cloud[:, :2] >= low) & (cloud[:, :2] <= high)).all(1)]
    assert len(cloud) == given["n_points"]

    features, sites = model.vfe([cloud])
    assert len(sites) == case.data["n_voxels"]
    assert case.relative_error("voxel_features", features) <= TOLERANCE
    output, stages = model.backbone_3d(features, sites)
    assert {f"x_conv{i + 1}": len(where) for i, (_, where) in enumerate(stages)} == case.data["stage_voxels"]
    for number, (x, _) in enumerate(stages[:3], start=1):
        assert case.relative_error(f"x_conv{number}", x) <= TOLERANCE
    assert case.relative_error("encoded", output[0]) <= TOLERANCE
    dense = seen_from_above(*output)
    assert case.relative_error("spatial_features", dense) <= TOLERANCE
    predictions = model.dense_head(model.backbone_2d(dense))
    for name, ours in zip(("cls_preds", "box_preds", "dir_cls_preds"), predictions, strict=True):
        assert case.relative_error(name, ours) <= TOLERANCE
    assert case.relative_error("batch_box_preds", model.dense_head.boxes(predictions)) <= TOLERANCE

    (truth,) = truths_of(case.data["gt_boxes"])
    expected = case.data["targets"]
    labels, positives, boxes = model.dense_head.targets(truth, model.dense_head.anchors(predictions))
    assert int((labels == 0).sum()) == expected["n_neg"]
    assert int((labels < 0).sum()) == expected["n_ignored"]
    assert positives.tolist() == expected["pos_index"]
    assert labels[positives].tolist() == expected["pos_label"]
    codes = encode(boxes, model.dense_head.anchors(predictions)[positives])
    torch.testing.assert_close(codes.flatten(), torch.tensor(expected["pos_reg"]), rtol=TOLERANCE, atol=1e-5)
    losses = model.dense_head.losses(predictions, [truth])
    check_losses(case, losses, ANCHOR_LOSSES)
    if "loss_grad_norms" in case.data:
        check_loss_gradients(case, model, torch.stack(list(losses.values())).sum())


@every_case("LION state")
def test_published_state_loads_strictly_and_has_the_published_counts(case: Case) -> None:
    _, dataset, *operator = case.path.stem.split("_")
    datasets = {"nusc": "nuscenes", "argo": "argoverse2"}
    name = "_".join(["lion", *operator, datasets.get(dataset, dataset)]).replace("mamba_l_", "mamba_large_")
    with torch.device("meta"):
        model = create_detector(name)
    assert list(model.grid.shape) == case.data["grid_size_xyz"][::-1]
    parts = {name: sum(x.numel() for x in part.parameters()) for name, part in model.named_children()}
    assert parts == {name: count for name, count in case.data["params_by_module"].items() if count}
    state = {name: torch.empty(shape, device="meta") for name, shape in case.data["state"].items()}
    ours = checkpoint_filter_fn(state, model)
    wanted = {name: x.shape for name, x in model.state_dict().items()}
    assert {name: x.shape for name, x in ours.items()} == wanted
    sparse = [name for name, x in state.items() if "sub_conv.0" in name or (dataset == "argo" and x.dim() == 4)]
    swapped = {name: x.movedim(0, -1) if name in sparse else x for name, x in state.items()}
    assert {name: x.shape for name, x in checkpoint_filter_fn(swapped, model).items()} == wanted  # of spconv 1

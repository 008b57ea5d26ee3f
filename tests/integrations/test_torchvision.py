"""torchvision's detectors and segmentation models on this package's backbones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import visionssm
from visionssm.heads.segmentors import HEADS, segmentation_model
from visionssm.integrations.torchvision import detection_backbone

FAMILIES = sorted({*visionssm.list_models("*_nano_test"), "mambaout_femto"} - {"plstm_nano_test"})
SMALL: dict[str, Any] = {"min_size": 64, "max_size": 64}


def p6p7(name: str) -> torch.nn.Module:
    return detection_backbone(name, 16, out_indices=(1, 2, 3), extra_blocks=LastLevelP6P7(16, 16))


DETECTORS = {
    "FasterRCNN": lambda name: FasterRCNN(detection_backbone(name, 16), num_classes=3, **SMALL),
    "MaskRCNN": lambda name: MaskRCNN(detection_backbone(name, 16), num_classes=3, **SMALL),
    "RetinaNet": lambda name: RetinaNet(p6p7(name), num_classes=3, **SMALL),
}


def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of different sizes; one has an object, the other none."""
    images = [torch.rand(3, 64, 64), torch.rand(3, 50, 64)]
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[:, 8:40, 8:40] = 1
    one = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([2]), "masks": mask}
    none = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 50, 64, dtype=torch.uint8),
    }
    return images, [one, none]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_five_levels_of_one_width(name: str) -> None:
    backbone = detection_backbone(name, 16).eval()
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 64, 96))
    assert list(maps) == ["0", "1", "2", "3", "pool"]
    assert backbone.out_channels == 16
    assert {x.shape[1] for x in maps.values()} == {16}
    heights = [x.shape[2] for x in maps.values()]
    assert heights == sorted(heights, reverse=True)
    assert all(x.isfinite().all() for x in maps.values())


@pytest.mark.parametrize("name", ["vmamba_nano_test", "vim_nano_test"])
@pytest.mark.parametrize("architecture", DETECTORS)
def test_detectors_train_and_predict(architecture: str, name: str) -> None:
    torch.manual_seed(0)
    model = DETECTORS[architecture](name)
    images, targets = batch()
    losses = model(images, targets)
    sum(losses.values()).backward()
    used = [x for key, x in model.backbone.body.model.named_parameters() if "head" not in key and x.requires_grad]
    reached = [x for x in used if x.grad is not None and x.grad.abs().sum() > 0]
    assert len(reached) > 0.9 * len(used)
    with torch.no_grad():
        found = model.eval()(images)
    assert len(found) == 2
    wanted = {"boxes", "labels", "scores"} | ({"masks"} if architecture == "MaskRCNN" else set())
    assert set(found[0]) == wanted


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["vmamba_nano_test", "vim_nano_test", "mambaout_femto"])
def test_segmentation_models_keep_torchvisions_contract(name: str, head: str) -> None:
    torch.manual_seed(0)
    model = segmentation_model(name, 5, head=head, channels=16, atrous_rates=(1, 2), auxiliary=True)
    scores = model(torch.rand(2, 3, 48, 70))
    assert list(scores) == ["out", "aux"]
    assert scores["out"].shape == scores["aux"].shape == (2, 5, 48, 70)
    (scores["out"].square().mean() + scores["aux"].square().mean()).backward()
    missing = [key for key, x in model.named_parameters() if x.grad is None]
    assert missing == []
    plain = segmentation_model(name, 5, head=head, channels=16).eval()
    with torch.no_grad():
        assert list(plain(torch.rand(1, 3, 48, 70))) == ["out"]


@pytest.mark.parametrize("out_indices, deep", [((1,), 1), ((0, 2), 0), ((0, 1, 3), 1), ((0, 1, 2, 3), 2)])
def test_auxiliary_head_reads_the_last_stage_but_one(out_indices: tuple[int, ...], deep: int) -> None:
    model = segmentation_model("vmamba_nano_test", 3, channels=8, auxiliary=True, out_indices=out_indices).eval()
    image = torch.rand(1, 3, 64, 64)
    stage = model.backbone.body.model.forward_intermediates(image, intermediates_only=True)[deep]
    fused = model.backbone(image)
    assert fused["aux"].shape == stage.shape
    assert model(image)["aux"].shape == (1, 3, 64, 64)


def test_fused_map_depends_on_every_stage() -> None:
    model = segmentation_model("vmamba_nano_test", 3, head="fcn", channels=8).eval()
    fused = model.backbone
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = fused(image)["out"]
        assert before.shape == (1, 8, 16, 16)
        for inner in fused.fpn.inner_blocks:
            weight = inner[0].weight
            kept = weight.clone()
            weight.zero_()
            assert not torch.allclose(fused(image)["out"], before)
            weight.copy_(kept)


def test_frozen_stages_get_no_gradient() -> None:
    model = FasterRCNN(detection_backbone("vmamba_nano_test", 16, frozen_stages=1), num_classes=3, **SMALL)
    sum(model(*batch()).values()).backward()
    stem = model.backbone.body.model.patch_embed
    assert all(x.grad is None for x in stem.parameters())
    assert all(x.grad is None for x in model.backbone.body.model.layers[0].blocks.parameters())
    assert any(x.grad is not None for x in model.backbone.body.model.layers[1].parameters())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: detection_backbone("vmamba_nano_tets"), "unknown model name='vmamba_nano_tets'.*vmamba_nano_test"),
        (lambda: detection_backbone("vmamba_nano_test", 0), "out_channels must be at least 1, got 0"),
        (lambda: detection_backbone("vmamba_nano_test", out_indices=(0, 4)), "out_indices"),
        (lambda: segmentation_model("vmamba_nano_test", 5, head="unet"), "head='unet' is unknown.*deeplab, fcn"),
        (lambda: segmentation_model("vmamba_nano_test", 0), "num_classes must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

"""Defaults of losses, heads and thresholds that papers, torchvision and COCO publish, and that no shape shows."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import detection as theirs
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from visionssm.backbones.convs5 import VARIANTS as CONVS5
from visionssm.backbones.convs5 import ConvSSM
from visionssm.data.masks import mask_coder
from visionssm.heads.segmentors import segmentation_model
from visionssm.tasks.classification.distillation import DistilledClassifier
from visionssm.tasks.classification.losses import DistillationLoss, hard_distillation, soft_distillation
from visionssm.tasks.classification.mesa import MesaClassifier
from visionssm.tasks.detection.metric import DetectionMetric, plain_objects
from visionssm.tasks.detection.model import TorchvisionDetector
from visionssm.tasks.detection.predictor import Detector
from visionssm.tasks.segmentation.model import TorchvisionSegmentor
from visionssm.tasks.video.data import DIGIT_SHARE, MovingDigits, bouncing_path
from visionssm.tasks.video.model import NextFramePredictor
from visionssm.tasks.video.predictor import NextFrames


def _default(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].default


# ------------------------------------------------------------------------------------------------------------ losses


def test_teacher_and_labels_have_equal_shares_and_the_teacher_decides() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, imitated, taught = (torch.randn(4, 7, generator=generator) for _ in range(3))
    target = torch.tensor([0, 3, 2, 6])
    loss = DistillationLoss(F.cross_entropy, lambda images: taught)((logits, imitated), target, torch.zeros(4, 3, 8, 8))
    hard = F.cross_entropy(imitated, taught.argmax(-1))
    torch.testing.assert_close(loss, 0.5 * F.cross_entropy(logits, target) + 0.5 * hard)
    torch.testing.assert_close(hard_distillation(imitated, taught), hard)
    torch.testing.assert_close(
        soft_distillation(imitated, taught), soft_distillation(imitated, taught, temperature=1.0), rtol=0, atol=0
    )
    defaults = {name: _default(DistilledClassifier, name) for name in ("distillation", "alpha", "temperature")}
    assert defaults == {"distillation": "hard", "alpha": 0.5, "temperature": 1.0}


def test_moving_average_teaches_with_weight_one_after_a_quarter_of_300_epochs() -> None:
    assert (_default(MesaClassifier, "weight"), _default(MesaClassifier, "begin")) == (1.0, 75)


def test_auxiliary_segmentation_loss_counts_four_tenths_and_unlabelled_pixels_nothing() -> None:
    torch.manual_seed(0)
    model = TorchvisionSegmentor("test_convnext", 3, channels=16, head="fcn", auxiliary=True).eval()
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    labels[:, :20] = 255
    scores = model.model((images - model.mean) / model.std)
    losses = model(images, labels, mode="loss")
    torch.testing.assert_close(losses["loss_pixels"], F.cross_entropy(scores["out"], labels, ignore_index=255))
    torch.testing.assert_close(losses["loss_auxiliary"], 0.4 * F.cross_entropy(scores["aux"], labels, ignore_index=255))


# -------------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("probability, inside", [(0.3, False), (0.49, False), (0.5, False), (0.51, True), (0.7, True)])
def test_pixel_belongs_to_an_object_if_that_is_more_likely_than_not(probability: float, inside: bool) -> None:
    masks = torch.full((1, 1, 2, 3), probability)
    (encoded,) = plain_objects({"masks": masks})["masks"]
    assert np.array_equal(mask_coder().decode(encoded).astype(bool), np.full((2, 3), inside))

    class Found(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.zeros(1))

        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            box = torch.tensor([[0.0, 0.0, 3.0, 2.0]])
            return [{"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.9]), "masks": masks}]

    (found,) = Detector(Found().eval(), ["disc"])([Image.new("RGB", (3, 2))])
    assert found.masks is not None
    assert np.array_equal(found.masks[0], np.full((2, 3), inside))


def test_objects_are_reported_and_drawn_from_a_score_of_one_half() -> None:
    assert Detector.threshold == 0.5
    assert _default(DetectionMetric, "threshold") == 0.5


def test_objects_of_openmmlab_are_reported_and_drawn_from_a_score_of_one_half() -> None:
    pytest.importorskip("mmdet", reason="needs the openmmlab extra")
    from visionssm.tasks.openmmlab.pictures import SamplePicturesHook
    from visionssm.tasks.openmmlab.predictor import OpenMMLabDetector

    assert OpenMMLabDetector.threshold == 0.5
    assert _default(SamplePicturesHook, "threshold") == 0.5


# ------------------------------------------------------------------------------------------------------------- heads

THEIRS = {
    "FasterRCNN": theirs.fasterrcnn_resnet50_fpn,
    "MaskRCNN": theirs.maskrcnn_resnet50_fpn,
    "RetinaNet": theirs.retinanet_resnet50_fpn,
}


def _numbers(model: nn.Module) -> dict[str, Any]:
    """What a detector of torchvision decides by: thresholds, counts, sizes, and anchors of every level."""
    found: dict[str, Any] = {
        f"transform.{name}": getattr(model.transform, name)
        for name in ("min_size", "max_size", "image_mean", "image_std", "size_divisible")
    }
    owners: dict[str, Any] = {"": model}
    if isinstance(model, GeneralizedRCNN):
        owners = {"rpn": model.rpn, "roi_heads": model.roi_heads}
    for owner, module in owners.items():
        for name, value in vars(module).items():
            if isinstance(value, int | float) and name != "training":
                found[f"{owner}.{name}"] = value
        for name in ("proposal_matcher", "fg_bg_sampler", "box_coder"):
            for key, value in vars(getattr(module, name, None) or nn.Identity()).items():
                if isinstance(value, int | float | tuple) and not key.startswith("_") and key != "training":
                    found[f"{owner}.{name}.{key}"] = value
    anchors = model.rpn.anchor_generator if isinstance(model, GeneralizedRCNN) else model.anchor_generator
    found["anchors"] = [level.round().tolist() for level in anchors.cell_anchors]
    return found


@pytest.mark.parametrize("architecture", THEIRS)
def test_detectors_decide_by_the_numbers_of_torchvisions_own(architecture: str) -> None:
    reference = THEIRS[architecture](weights=None, weights_backbone=None, num_classes=4)
    ours = TorchvisionDetector(architecture, "test_convnext", num_classes=3).model
    expected = _numbers(reference)
    assert len(expected) > 10
    assert _numbers(ours) == expected
    parameters = {name: p.shape for name, p in reference.named_parameters() if not name.startswith("backbone.body")}
    kept = {name: p.shape for name, p in ours.named_parameters() if not name.startswith("backbone.body")}
    # Only the pyramid reads other widths.
    assert {name for name in parameters if kept.get(name) != parameters[name]} <= {
        name for name in parameters if name.startswith("backbone.fpn.inner_blocks")
    }


def test_segmentation_head_has_the_published_atrous_rates() -> None:
    model = segmentation_model("test_convnext", 3, channels=16)
    rates = [module.dilation[0] for module in model.classifier.modules() if isinstance(module, nn.Conv2d)]
    assert sorted({rate for rate in rates if rate > 1}) == [12, 24, 36]
    assert _default(segmentation_model, "channels") == 256
    assert list(_default(TorchvisionSegmentor, "atrous_rates")) == [12, 24, 36]


# ------------------------------------------------------------------------------------------------------------- video


def test_published_convs5_models_have_the_numbers_of_the_paper() -> None:
    large, small = CONVS5["convs5_mnist300"], CONVS5["convs5_mnist600"]
    assert (large.dim, large.states, small.dim, small.states) == (256, 256, 128, 128)
    for config in (large, small):
        assert (config.widths, config.depth, config.groups, config.channels) == ((64, 128, 256), 8, 32, 1)
        assert not config.skips
        assert not config.ssm
        assert not config.layer
    defaults = {name: _default(ConvSSM, name) for name in ("blocks", "b_kernel", "c_kernel", "dt_range", "max_real")}
    assert defaults == {"blocks": 1, "b_kernel": 3, "c_kernel": 3, "dt_range": (1e-3, 1e-1), "max_real": -1e-4}


def test_step_sizes_of_convs5_start_log_uniformly() -> None:
    torch.manual_seed(0)
    steps = ConvSSM(2, 512).log_step.exp().log10()  # −3 to −1
    assert steps.min() < -2.97
    assert steps.max() > -1.03
    assert steps.mean().item() == pytest.approx(-2, abs=0.1)
    assert steps.std().item() == pytest.approx(2 / 12**0.5, rel=0.05)


def test_moving_digits_cover_seven_sixteenths_and_move_by_15_hundredths() -> None:
    assert DIGIT_SHARE == 28 / 64
    path = bouncing_path(np.random.default_rng(0), 200)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    inside = ((path > 0) & (path < 1)).all(axis=1)
    assert steps[inside[1:] & inside[:-1]] == pytest.approx(0.15)


def test_ten_frames_are_given_and_ten_follow_as_in_moving_mnist() -> None:
    assert _default(MovingDigits, "frames") == 20
    assert _default(NextFramePredictor, "context") == 10
    assert NextFrames.steps == 10

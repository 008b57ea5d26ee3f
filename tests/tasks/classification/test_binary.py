"""Training class by class with the binary cross-entropy, and the pLSTM configs that use it."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import OPTIMIZERS
from torch.nn.functional import binary_cross_entropy_with_logits

import tests.engine.every_task  # noqa: F401  registers all types
from tests.configs import shipped_config
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import ConfigError
from visionssm.tasks.classification.binary import BinaryCrossEntropyClassifier

PUBLISHED = {"tiny": (4e-3, 800, 0.0), "small": (4e-3, 400, 0.05), "base": (3e-3, 400, 0.1)}


def _classifier(**options: object) -> BinaryCrossEntropyClassifier:
    torch.manual_seed(0)
    return BinaryCrossEntropyClassifier("plstm_nano_test", num_classes=3, **options).eval()  # type: ignore[arg-type]


def test_label_is_present_and_all_other_classes_are_absent() -> None:
    classifier, images = _classifier(), torch.randn(2, 3, 64, 64)
    scores = classifier(images)
    expected = binary_cross_entropy_with_logits(scores, torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    torch.testing.assert_close(classifier(images, torch.tensor([2, 0]), mode="loss")["loss"], expected)


def test_both_classes_of_a_mixed_image_are_present() -> None:
    classifier, images = _classifier(), torch.randn(2, 3, 64, 64)
    shares = torch.tensor([[0.1, 0.9, 0.0], [0.0, 0.4, 0.6]])
    expected = binary_cross_entropy_with_logits(classifier(images), torch.tensor([[1.0, 1, 0], [0, 1, 1]]))
    torch.testing.assert_close(classifier.criterion(images, shares, 0.0), expected)


def test_smoothed_labels_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"label_smoothing=0.1"):
        _classifier(label_smoothing=0.1)


@pytest.mark.parametrize("size", PUBLISHED)
def test_plstm_config_is_valid_and_has_the_published_recipe(size: str) -> None:
    cfg = load_config(shipped_config(f"plstm_{size}_imagenet"))
    check_config(cfg)
    rate, epochs, drop_path = PUBLISHED[size]
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert (optimizer["lr"], cfg.train_cfg.max_epochs, cfg.model.drop_path_rate) == (rate, epochs, drop_path)
    assert cfg.param_scheduler[-1]["end"] == epochs
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 2048
    built = OPTIMIZERS.build({**optimizer, "params": [torch.zeros(1, requires_grad=True)]})
    assert type(built).__name__ == "Lamb"
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert tuple(loader.dataset.transform.input_size) == (3, 192, 192)

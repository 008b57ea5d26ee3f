"""The model and the training data of a configuration, without a training."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.registry import DATASETS, MODELS, DefaultScope

import visionssm.engine.registration  # noqa: F401
from visionssm.engine.checkpoint import read_trained
from visionssm.engine.config import check_config, check_data, load_config
from visionssm.engine.errors import ConfigError
from visionssm.engine.task import find_task
from visionssm.engine.types import register_types
from visionssm.heads.yolo import MambaYolo
from visionssm.tasks.yolo.data import MosaicDetection
from visionssm.tasks.yolo.predictor import trained_yolo


def training_of(config: str | Path, checkpoint: Path | None = None) -> tuple[MambaYolo, MosaicDetection]:
    """The network, in evaluation mode, and the training data that a configuration names.

    Args:
        config: a file, or the name of a configuration that comes with the package.
        checkpoint: weights for the network; None for those that a training with seed 0 would start with.
    Raises:
        ConfigError, DatasetError: the configuration or its data cannot be used, or it is of another task.
        CheckpointError: the checkpoint is of another task or model.
    """
    cfg = load_config(config)
    check_config(cfg)
    register_types(find_task("yolo"))
    if (cfg.get("model") or {}).get("type") != "YoloDetector":
        raise ConfigError(f"{str(config)!r} has no model of type 'YoloDetector', whose points could be shown")
    check_data(cfg, ("train_dataloader",))
    with DefaultScope.overwrite_default_scope(None):
        data = DATASETS.build(cfg.train_dataloader.dataset)
        if not isinstance(data, MosaicDetection):
            raise ConfigError(f"{str(config)!r} does not train on type='MosaicDetection'")
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
    if checkpoint is not None:
        content = read_trained(checkpoint)
        model.check_checkpoint(content["meta"], str(checkpoint))
        return trained_yolo(content).model, data
    model.checkpoint_meta(data, None)  # the classes are as many
    return model.model.eval(), data

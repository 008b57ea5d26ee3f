"""What a config leaves open because it follows from the images, the model or the machine: `None` until here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg, is_model

from visionssm.tasks.classification.folder import FolderImages, find_images

_MOST_IMAGES, _FEWEST_IMAGES, _STEPS = 32, 4, 8
_MOST_WORKERS = 8
_FROM_MODEL = ("input_size", "mean", "std", "interpolation", "crop_pct")


def complete(cfg: Any) -> None:
    """Fill in, in place, what a config with a `FolderDataset` has as None or not at all.

    - `root` of the data sets: the `root` at the top level.
    - `model.num_classes`: as many as there are class folders.
    - size, mean, std, interpolation and crop of the images: those of the model.
    - `train_dataloader.batch_size`: 32, or less, for some steps per epoch with a small set.
    - `num_workers`: one per processor core of this process, 8 at most, and no more than there are batches.

    Raises:
        DatasetError: the folder has no classes.
    """
    loaders = [loader for key in ("train_dataloader", "val_dataloader", "test_dataloader") if (loader := cfg.get(key))]
    loaders = [loader for loader in loaders if (loader.get("dataset") or {}).get("type") == "FolderDataset"]
    images: FolderImages | None = None
    for loader in loaders:
        dataset = loader.dataset
        if dataset.get("root") is None:
            dataset.root = cfg.get("root")
        if not isinstance(dataset.get("transform") or {}, Mapping):
            continue  # which will be told
        dataset.transform = {**_data_of_model(cfg.model), **(dataset.get("transform") or {})}
        images = find_images(dataset.root, dataset.get("val_fraction", 0.2), dataset.get("seed", 0))
        count = len(images.train if dataset.split == "train" else images.val)
        if loader.get("batch_size") is None:
            loader.batch_size = _batch_size(count)
        if loader.get("num_workers") is None:
            loader.num_workers = min(_workers(), -(-count // loader.batch_size))
    if images is not None and cfg.model.get("num_classes") is None:
        cfg.model.num_classes = len(images.classes)


def _data_of_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """How the images of a timm model are prepared; nothing of an unknown one, of which others will tell."""
    name, channels = str(model.get("name")), model.get("in_chans", 3)
    if not is_model(name.split(".")[0]):
        return {}
    registered = get_pretrained_cfg(name)
    data = resolve_data_config({}, pretrained_cfg=registered.to_dict() if registered else {})
    about = {key: data[key] for key in _FROM_MODEL}
    if channels != data["input_size"][0]:
        about["input_size"] = (channels, *data["input_size"][1:])
        for key in ("mean", "std"):
            about[key] = (sum(data[key]) / len(data[key]),) * channels
    return about


def _batch_size(images: int) -> int:
    """A power of two with which some steps make an epoch, where there are images enough."""
    fitting = max(_FEWEST_IMAGES, images // _STEPS)
    return min(_MOST_IMAGES, images, 1 << (fitting.bit_length() - 1))


def _workers() -> int:
    """Loader processes for this process's share of the cores; none where there is a single one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(_MOST_WORKERS, share) if share > 1 else 0

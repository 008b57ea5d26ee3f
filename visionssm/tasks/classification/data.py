"""Labelled images through timm's readers and transforms: folders, torchvision, Hugging Face and WebDataset."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset, create_transform
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.images import SUFFIXES, Mode, read_image, to_8_bit
from visionssm.data.problems import checked_classes, first_readable
from visionssm.data.seeding import isolated_randomness, mixed_seed
from visionssm.data.spelling import closest

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "eval", "evaluation")
STREAMS = ("wds", "hfids", "tfds")
"""timm's name prefixes of data sets that can only be read in order."""

_PACKAGES = {"hfds": "datasets", "hfids": "datasets", "wds": "webdataset", "tfds": "tensorflow_datasets"}

HELP = (
    "Point to the data with `--cfg-options train_dataloader.dataset.root=DIR val_dataloader.dataset.root=DIR` (and the "
    "test_dataloader's where there is one) or the environment variable that the config names. "
    "A folder data set is ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg; ImageNet is at https://image-net.org "
    "(after registration). Other sources: name='hfds/…' (Hugging Face), name='wds/…' (WebDataset), name='torch/…'."
)


def timm_dataset(
    root: str | None,
    split: str,
    *,
    name: str = "",
    transform: Mapping[str, Any] | None = None,
    corrupt: str = "skip",
    classes: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> ClassificationImages | ClassificationStream:
    """A classification data set by timm's name, as (inputs, labels, index, skipped) dicts.

    Args:
        root: folder of the data, or the download cache for `hfds/` and `torch/`.
        split: "train" or "val" (or what the source calls its parts); training transforms go with train.
        name: "" for a folder, else timm's: `hfds/NAME`, `wds/NAME`, `torch/cifar10`, ….
        transform: keyword arguments of `timm.data.create_transform`.
        corrupt: what to do with an image that cannot be decoded: "skip" takes the next one while training, leaves it
            out of the metrics while evaluating, and counts it; "raise" stops.
        classes: class names, for sources that do not know them.
        options: further keyword arguments of `timm.data.create_dataset` (`class_map`, `input_key`, `num_samples`, …).
        seed: of the order of streams.
    Raises:
        DatasetError: the data set is missing, a class folder is empty, or an argument is unknown.
    """
    check_timm_dataset(root=root, split=split, name=name, transform=transform, corrupt=corrupt, options=options)
    training = split.lower() in TRAIN_NAMES
    transform = dict(transform or {})
    mode: Mode = "L" if _channels(transform) == 1 else "RGB"
    # Readers that decode images themselves hand them over as they are stored, for `to_8_bit`; TensorFlow cannot.
    prefix = _prefix(name)
    kwargs: dict[str, Any] = {"input_img_mode": mode if prefix == "tfds" else "", **dict(options or {})}
    if prefix in STREAMS:
        kwargs |= {"is_training": training, "seed": seed}
    if prefix in ("", "folder"):
        kwargs.setdefault("input_key", ";".join(SUFFIXES))
    if prefix == "torch":
        kwargs.pop("input_img_mode")  # torchvision's data sets do not take it; images are converted below
    try:
        source = create_dataset(name, root=root, split=split, **kwargs)
    except (RuntimeError, AssertionError, OSError, ImportError, KeyError, ValueError) as error:
        raise DatasetError(
            f"data set name={name!r} root={root!r} split={split!r} cannot be opened "
            f"({type(error).__name__}: {error}). {HELP}"
        ) from error
    if hasattr(source, "loader"):  # torchvision's folders
        source.loader = partial(read_image, mode=mode)
    pipeline, given = usable_transform(transform, training)
    about = {"classes": _class_names(source, classes), "input": given}
    if prefix in STREAMS:
        return ClassificationStream(source, pipeline, about, seed, mode)
    return ClassificationImages(source, pipeline, about, mode, training, corrupt == "raise")


class ClassificationImages(Dataset):
    """Images that can be taken by index; see `timm_dataset`."""

    def __init__(
        self,
        source: Any,
        transform: Callable[[Image.Image], Tensor],
        metainfo: dict[str, Any],
        mode: Mode,
        training: bool,
        stop_at_corrupt: bool,
    ) -> None:
        self.source = source
        self.transform = transform
        self.metainfo = metainfo
        self.mode = mode
        self.training = training
        self.stop_at_corrupt = stop_at_corrupt

    def __len__(self) -> int:
        return len(self.source)

    def sample_name(self, index: int) -> str:
        """File name, relative to the root, where the source has one."""
        try:
            return str(self.source.filename(index))
        except (AttributeError, NotImplementedError, KeyError, TypeError):
            return str(index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.stop_at_corrupt:
            return self._sample(index)
        if self.training:
            sample, skipped = first_readable(self._sample, index, len(self))
            return {**sample, "skipped": skipped}
        try:
            return self._sample(index)
        except CorruptImageError:
            blank = torch.zeros(self.metainfo["input"]["size"])
            return {"inputs": blank, "labels": -1, "index": index, "skipped": 1}

    def _sample(self, index: int) -> dict[str, Any]:
        try:
            image, label = self._read(index)
        except Exception as error:  # decoders of damaged data raise whatever comes
            raise CorruptImageError(
                f"image {self.sample_name(index)!r} cannot be read ({type(error).__name__}: {error}); remove "
                "or replace it, or set corrupt='skip' in the data set's config"
            ) from error
        return {"inputs": self.transform(image), "labels": label, "index": index, "skipped": 0}

    def _read(self, index: int) -> tuple[Image.Image, int]:
        if hasattr(self.source, "reader"):  # timm's own data sets would skip by themselves, without a count
            stream, label, *_ = self.source.reader[index]
            with stream:
                return read_image(stream, self.mode), int(label)
        image, label = self.source[index]
        return to_8_bit(image, self.mode), int(label)


class ClassificationStream(IterableDataset):
    """Images that come in an order of their own (WebDataset, …); see `timm_dataset`.

    Augmentation is a function of (seed, epoch, worker, position). Damaged images are dropped by timm's readers, which
    log them.
    """

    def __init__(
        self,
        source: Any,
        transform: Callable[[Image.Image], Tensor],
        metainfo: dict[str, Any],
        seed: int,
        mode: Mode = "RGB",
    ) -> None:
        self.source = source
        self.transform = transform
        self.metainfo = metainfo
        self.seed = seed
        self.mode = mode
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and augmentation of the next pass."""
        self.epoch = epoch
        self.source.set_epoch(epoch)

    def set_loader_cfg(self, num_workers: int | None = None) -> None:
        """Tell the reader how many workers share the shards; its length depends on it."""
        self.source.set_loader_cfg(num_workers=num_workers)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker = info.id if info else 0
        if getattr(getattr(self.source, "reader", None), "ds", None) is not None:
            self.source.reader.ds = None  # without workers the reader's shuffling would go on from the pass before
        for position, (image, label) in enumerate(self.source):
            with isolated_randomness(mixed_seed(self.seed, self.epoch, worker, position)):
                inputs = self.transform(to_8_bit(image, self.mode))
            yield {"inputs": inputs, "labels": int(label), "index": position, "skipped": 0}


def check_timm_dataset(
    *,
    root: str | None = None,
    split: str = "val",
    name: str = "",
    transform: Mapping[str, Any] | None = None,
    corrupt: str = "skip",
    options: Mapping[str, Any] | None = None,
    **_: Any,
) -> None:
    """Look whether the data are there, without opening them: a matter of milliseconds, before any model is built.

    Raises:
        DatasetError: saying where was looked, and how to get or point to the data.
    """
    if corrupt not in ("skip", "raise"):
        raise DatasetError(f"corrupt must be 'skip' or 'raise', got {corrupt!r}")
    check_transform(transform)
    prefix = _prefix(name)
    package = _PACKAGES.get(prefix)
    if package and importlib.util.find_spec(package) is None:
        raise DatasetError(f"data set {name!r} needs the package {package!r}: pip install {package}")
    if prefix in ("", "folder", "wds"):
        if root is None:
            raise DatasetError(f"root must be a folder for data set name={name!r}, got None. {HELP}")
        is_url = "://" in root or root.startswith("pipe:")
        if not is_url and not Path(root).expanduser().is_dir():
            raise DatasetError(f"data set not found: looked for the folder {os.path.abspath(root)!r}. {HELP}")
    if prefix in ("", "folder"):
        _check_class_folders(_split_folder(Path(str(root)).expanduser(), split), (options or {}).get("class_map"))


def check_transform(transform: Mapping[str, Any] | None) -> None:
    """Refuse keys that `timm.data.create_transform` does not take.

    Raises:
        DatasetError: with the closest key.
    """
    if not isinstance(transform or {}, Mapping):
        raise DatasetError(f"the data set's transform must be a dict, got {transform!r}")
    known = set(inspect.signature(create_transform).parameters) - {"is_training"}
    for key in transform or ():
        if key not in known:
            raise DatasetError(f"unknown key {key!r} in the data set's transform; closest: {closest(key, known)}")
    for key in _PROBABILITIES.intersection(transform or ()):
        value = (transform or {})[key]
        if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
            raise DatasetError(f"{key} of the data set's transform is a probability, from 0 to 1, got {value!r}")


_PROBABILITIES = {"hflip", "vflip", "re_prob", "color_jitter_prob", "grayscale_prob", "gaussian_blur_prob"}


def usable_transform(transform: Mapping[str, Any], training: bool) -> tuple[Any, dict[str, Any]]:
    """timm's transform of these arguments, tried on a blank image, and what a checkpoint says of the images.

    Raises:
        DatasetError: an argument has no fitting value.
    """
    try:
        about = _input_description(transform)
        pipeline = create_transform(**transform, is_training=training)
        if not transform.get("separate"):
            with isolated_randomness(0):
                pipeline(Image.new("L" if about["size"][0] == 1 else "RGB", (32, 32)))
    except Exception as error:  # timm and torchvision raise whatever comes
        raise DatasetError(
            f"the data set's transform cannot be used ({type(error).__name__}: {error}): {dict(transform)!r}"
        ) from error
    return pipeline, about


def _split_folder(root: Path, split: str) -> Path:
    """The folder timm will read; timm takes ROOT itself if there is none for the split, which mixes up the splits."""
    names = next((group for group in (TRAIN_NAMES, VAL_NAMES) if split.lower() in group), (split,))
    for name in (split, *names):
        if (root / name).is_dir():
            return root / name
    raise DatasetError(
        f"split {split!r} not found: looked for {' or '.join(dict.fromkeys(names))} in {str(root.absolute())!r}. {HELP}"
    )


def _check_class_folders(folder: Path, class_map: Any) -> None:
    kinds = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not kinds:
        raise DatasetError(f"{str(folder.absolute())!r} has no class folders; expected {folder.name}/CLASS/image.jpg")
    filled = _filled_folders(folder, bool(class_map))
    empty = [path.name for path in kinds if path.name not in filled]
    if empty and not class_map:  # a class without images would shift the numbers of all the classes behind it
        listed = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        raise DatasetError(
            f"{len(empty)} of {len(kinds)} class folders in {str(folder.absolute())!r} hold no images: {listed}. "
            "Fill or remove them (in every split), or give options=dict(class_map=…) to fix the class numbers."
        )


def _filled_folders(folder: Path, known: bool) -> set[str]:
    """Names of the class folders in which timm will find images, at any depth.

    Args:
        folder: of the class folders.
        known: the names of the classes are given.
    Raises:
        DatasetError: a folder cannot be listed, which timm would leave out in silence; a link leads back to a folder
            above it, whose images timm would read many times; or a hidden folder would become a class.
    """

    def stop(error: OSError) -> None:
        raise DatasetError(f"folder {error.filename!r} cannot be listed ({error.strerror})") from error

    filled: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=stop):
        for link in (os.path.join(place, name) for name in folders):
            if os.path.islink(link) and Path(place).resolve().is_relative_to(Path(link).resolve()):
                raise DatasetError(f"{link!r} is a link to a folder above it; remove it")
        if any(name.lower().endswith(SUFFIXES) for name in names):
            parts = Path(place).relative_to(folder).parts
            if not known and any(part.startswith(".") for part in parts):
                raise DatasetError(f"{place!r} is hidden and holds images, which would become a class; remove it")
            filled |= set(parts[:1])
    return filled


def _prefix(name: str) -> str:
    return name.split("/", 1)[0].lower() if name else ""


def _channels(transform: Mapping[str, Any]) -> int:
    size = transform.get("input_size", 224)
    return int(size[0]) if isinstance(size, Sequence) and len(size) == 3 else 3


def _input_description(transform: Mapping[str, Any]) -> dict[str, Any]:
    size = transform.get("input_size", 224)
    if isinstance(size, int):
        size = (3, size, size)
    elif len(size) == 2:
        size = (3, *size)
    return {
        "size": tuple(int(x) for x in size),
        "mean": tuple(float(x) for x in transform.get("mean", IMAGENET_DEFAULT_MEAN)),
        "std": tuple(float(x) for x in transform.get("std", IMAGENET_DEFAULT_STD)),
        "interpolation": str(transform.get("interpolation", "bilinear")),
        "crop_pct": float(transform.get("crop_pct") or 0.875),
    }


def _class_names(source: Any, given: Sequence[str] | None) -> list[str] | None:
    if given is not None:
        return checked_classes(given)
    indices = getattr(getattr(source, "reader", source), "class_to_idx", None)
    if not indices:
        return None
    return [str(name) for name, _ in sorted(indices.items(), key=lambda item: item[1])]


def is_stream(*, name: str = "", **_: Any) -> bool:
    """Whether a data set of these arguments can only be read in an order of its own."""
    return _prefix(name) in STREAMS


# What the engine asks of a data set's type before it builds one; set by name, as functions have no such attributes.
for _name, _answer in (("check_available", check_timm_dataset), ("brings_order", is_stream)):
    setattr(timm_dataset, _name, _answer)

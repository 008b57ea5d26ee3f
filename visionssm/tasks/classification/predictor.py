"""Classifying images."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image
from timm import create_model, is_model, list_models
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from visionssm.checkpoints import create_official
from visionssm.data.spelling import closest
from visionssm.engine.finite import check_finite
from visionssm.engine.task import View
from visionssm.tasks.classification.base import BaseClassifier
from visionssm.tasks.classification.network import build_classifier

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable


@dataclass(frozen=True)
class Classifier(BaseClassifier):
    """A model in evaluation mode with all that is needed to apply it to an image.

    Attributes:
        model: (B, C, H, W) to (B, classes) scores before softmax.
        classes: class names in the order of the scores.
        transform: PIL image to (C, H, W).
        image_mode: "RGB", or "L" for models of one channel.
        top_k: classes that a result holds.
        data: timm's data configuration that the transform was made of: `input_size`, `mean`, `std`, `interpolation`, …
        license: of published weights, where it is known.
    """

    model: nn.Module
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    license: str | None = None

    def probabilities(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """(classes,) of every image, in float32.

        Raises:
            ValueError: the network gives NaN or infinite scores.
        """
        place = next(self.model.parameters(), torch.empty(0)).device
        batch = torch.stack([self.transform(image) for image in images]).to(place)
        scores = self.model(batch).detach().float()
        check_finite(bool(scores.isfinite().all()))
        return list(scores.softmax(-1).cpu().numpy())

    def view(self) -> View:
        """The model's maps; images are prepared as for prediction, or resized to a given size."""
        steps = getattr(self.transform, "transforms", [])
        normalise = [step for step in steps if isinstance(step, Normalize)]

        def prepare(image: Image.Image, size: Sequence[int] | None) -> Tensor:
            resized = Compose([Resize(list(size), antialias=True), ToTensor(), *normalise]) if size else self.transform
            return resized(image)[None]

        def picture(images: Tensor) -> Tensor:
            image = images[0]
            for step in normalise:
                mean, std = torch.as_tensor(step.mean), torch.as_tensor(step.std)
                image = image * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
            return image.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0)

        shape = cast(Any, self.model).default_cfg["input_size"]
        return View(self.model, prepare, picture, tuple(shape), self.classes)

    def exportable(self) -> Exportable:
        """What `export_onnx` and `export_archive` take: normalised images to the scores before softmax."""
        from visionssm.integrations.export import Exportable, description

        about = description(
            self.classes,
            task="classification",
            **self.data,
            input="(B, C, H, W): an RGB or grey image in [0, 1], less the mean, divided by std",
            license=self.license,
        )
        shape = (1, *self.data["input_size"]) if "input_size" in self.data else None
        return Exportable(self.model, outputs=("scores",), shape=shape, about=about)


def official_classifier(name: str, path: str | Path) -> Classifier:
    """A registered variant with the weights of an official or bare checkpoint."""
    model = create_official(name, path)
    return _classifier(model, _class_names(model), resolve_model_data_config(model))


def trained_classifier(checkpoint: Mapping[str, Any]) -> Classifier:
    """What training wrote, as `read_checkpoint` returned it."""
    model, classes, trained = build_classifier(checkpoint)
    given = {"input_size" if key == "size" else key: value for key, value in trained.items() if value is not None}
    return _classifier(model, classes, resolve_model_data_config(model) | given)


def registered_classifier(name: str, *, pretrained: bool = False) -> Classifier:
    """A registered model by name: untrained, or with `pretrained` the published weights.

    Raises:
        ValueError: there is no such model, or it has no published weights; (DownloadError) they cannot be fetched.
    """
    if not is_model(name):
        raise ValueError(f"{name!r} is neither a file nor a registered model; closest: {closest(name, list_models())}")
    try:
        model: Any = create_model(name, pretrained=pretrained)
    except RuntimeError as error:  # timm's, for a tag that is not there and for models without weights
        if not pretrained:
            raise
        raise ValueError(f"no published weights of {name!r} can be used: {error}") from error
    classifier = _classifier(model, _class_names(model), resolve_model_data_config(model))
    return replace(classifier, license=model.pretrained_cfg.get("license") if pretrained else None)


def _class_names(model: nn.Module) -> list[str]:
    subset = infer_imagenet_subset(model)
    if subset is None:
        return [f"class {index}" for index in range(cast(int, model.num_classes))]
    return list(_descriptions(subset))


@functools.cache
def _descriptions(subset: str) -> tuple[str, ...]:
    """Of a set of ImageNet's classes; timm reads its files anew each time."""
    return tuple(ImageNetInfo(subset).label_descriptions())


def _classifier(model: nn.Module, classes: Sequence[str], config: Mapping[str, Any]) -> Classifier:
    channels = int(config["input_size"][0])
    if channels not in (1, 3):
        raise ValueError(f"image files give 1 or 3 channels, but the model takes {channels}")
    known = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    options: dict[str, Any] = {
        key: tuple(v) if isinstance(v := config[key], list) else v for key in known if key in config
    }
    transform = create_transform(**options, is_training=False)
    return Classifier(model.eval(), classes, transform, "RGB" if channels == 3 else "L", data=options)

"""What `visionssm visualize` draws; see `visionssm.cli.visualize`, which tells how it is used without PyTorch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import visionssm
from visionssm import visualization
from visionssm.data.seeding import isolated_randomness
from visionssm.drawing import save_picture
from visionssm.engine.task import View
from visionssm.prediction import find_files, load_predictor, registered_classifier


def load(source: str, options: argparse.Namespace) -> tuple[Any, View]:
    """Predictor and view of a checkpoint of any task, or of a registered model, whose random weights are always alike.

    Raises:
        ValueError: its task has nothing to look at.
    """
    predictor: Any
    if Path(source).exists() or Path(source).suffix in (".pth", ".pt", ".safetensors", ".bin"):
        predictor = load_predictor(source, model_name=options.model)
    else:
        torch.manual_seed(0)
        predictor = registered_classifier(source, pretrained=options.pretrained)
    if not hasattr(predictor, "view"):
        raise ValueError(f"{source!r} has no maps to look at: a {type(predictor).__name__} offers none")
    return predictor, predictor.view()


def draw_routes(options: argparse.Namespace) -> Path:
    """Write the picture of a route table."""
    height, width = options.size
    table = visualization.route_table(options.name, height, width, options.option)
    title = f"{options.name}, {height}×{width}"
    out = options.out or Path(f"routes_{options.name}.png")
    if out.suffix.lower() == ".gif":
        visualization.save_route_animation(table, height, width, out, title=title)
    else:
        visualization.save(visualization.figure_of_routes(table, height, width, title=title), out)
    return out


def draw_fields(options: argparse.Namespace) -> Path:
    """Write effective receptive fields side by side."""
    fields: dict[str, Tensor] = {}
    for source in options.sources:
        predictor, view = load(source, options)
        if options.images:
            files = find_files(options.images, predictor)[: options.count]
            images = [view.prepare(predictor.read(file), None) for file in files]
        else:
            channels, *size = view.shape
            generator = torch.Generator().manual_seed(0)
            images = list(torch.randn(options.count, 1, channels, *(options.size or size), generator=generator))
        if len({image.shape for image in images}) > 1:
            raise ValueError("the images have different sizes as the model takes them; give images of one size")
        batch = torch.cat(images) if images else torch.empty(0)
        print(f"{source}: {len(batch)} images of {'×'.join(map(str, batch.shape[-2:]))} …", file=sys.stderr)
        shown = _shown(source)
        name = shown if shown not in fields else f"{shown} ({len(fields) + 1})"
        fields[name] = visualization.effective_receptive_field(view.maps, batch)
    out = options.out or Path("erf.png")
    visualization.save(visualization.figure_of_fields(fields), out)
    return out


def _shown(source: str) -> str:
    """A model as pictures call it: its name, or the file and the folder that it is in, without where that is."""
    path = Path(source)
    return "/".join(path.parts[-2:]) if path.is_absolute() or len(path.parts) > 2 else source


def draw_features(options: argparse.Namespace) -> Path:
    """Write the feature maps of an image; of models with many layers, four spread evenly."""
    predictor, view = load(options.source, options)
    image = view.prepare(predictor.read(Path(options.image)), options.size)
    with torch.inference_mode():
        maps = visualization.stage_maps(view.maps, image)
    rows = min(len(maps), 4)
    chosen = [round((i + 1) * len(maps) / rows) - 1 for i in range(rows)]
    unit = "stage" if len(maps) == rows else "layer"
    named = {f"{unit} {i + 1}": maps[i][0].clone() for i in chosen}
    points = [name for name, features in named.items() if features.shape[-2:] == (1, 1)]
    if points:
        height, width = image.shape[-2:]
        told = f"{', '.join(points)}: a map of one pixel shows no place"
        print(f"{told}; --size {4 * height} {4 * width} gives the model a larger image", file=sys.stderr)
    out = options.out or Path(f"features_{Path(options.image).stem}.png")
    visualization.save(visualization.figure_of_features(view.picture(image), named), out)
    return out


def draw_cam(options: argparse.Namespace) -> Path:
    """Write the class-activation map of an image."""
    predictor, view = load(options.source, options)
    if view.classes is None:
        raise ValueError(f"a {type(predictor).__name__} decides on no class of the whole image that could be explained")
    image = view.prepare(predictor.read(Path(options.image)), options.size)
    cam, index = visualization.class_activation_map(view.maps, image, options.class_index)
    label = view.classes[index] if index < len(view.classes) else f"class {index}"
    out = options.out or Path(f"cam_{Path(options.image).stem}.png")
    with torch.inference_mode():
        score = float(view.maps(image).softmax(-1)[0, index])
    title = f"{label.split(',')[0]} ({index})" if not label.endswith(str(index)) else label
    title += f", score {score:.2f}"
    if cam.min() == cam.max():
        height, width = image.shape[-2:]
        told = "the last map is one pixel, or nothing in it speaks for the class: no place is told"
        print(f"{told}; --size {4 * height} {4 * width} gives the model a larger image", file=sys.stderr)
        title += "\n(no place is told: see a larger --size)"
    visualization.save(visualization.figure_of_cam(view.picture(image), cam, title=title), out)
    return out


def draw_groups(options: argparse.Namespace) -> Path:
    """Write which voxels of a sweep are a group, and which ones each stage makes; a name has random weights."""
    from visionssm.pointcloud.detector import LionDetector
    from visionssm.tasks.pointcloud.groups import picture_of_groups
    from visionssm.tasks.pointcloud.kitti import read_points

    if Path(options.model).exists():
        detector = load_predictor(options.model).model
    else:
        torch.manual_seed(0)
        detector = visionssm.create_detector(options.model).eval()
    if not isinstance(detector, LionDetector):
        raise ValueError(f"{options.model!r} has no groups of voxels: it is a {type(detector).__name__}")
    out = options.out or Path(f"groups_{options.sweep.stem}.png")
    save_picture(picture_of_groups(detector, read_points(options.sweep, detector.point_features)), out)
    return out


def draw_heat_maps(options: argparse.Namespace) -> Path:
    """Write the heat maps that a pose estimator finds key points in, of one person."""
    from visionssm.tasks.pose.pictures import draw_heat_maps as picture_of_heat_maps
    from visionssm.tasks.pose.predictor import KeypointFinder

    finder = load_predictor(options.source)
    if not isinstance(finder, KeypointFinder):
        raise ValueError(f"{options.source!r} has no heat maps of key points: it is a {type(finder).__name__}")
    photo = finder.read(Path(options.image))
    crop, maps = finder.explained(photo.image, options.box)
    out = options.out or Path(f"heatmaps_{Path(options.image).stem}.png")
    save_picture(picture_of_heat_maps(crop, maps, finder.skeleton), out)
    return out


def draw_assignment(options: argparse.Namespace) -> Path:
    """Write which points of a detector train on which box of a sample, before and after Mosaic."""
    from visionssm.extras import needs_extra

    with needs_extra("train", "tools/visualize.py assignment"):
        from visionssm.tasks.yolo.samples import training_of
    from visionssm.tasks.yolo.pictures import picture_of_assignment

    model, data = training_of(options.config, options.checkpoint)
    if not 0 <= options.index < len(data):
        raise ValueError(f"--index {options.index}: the training data have the samples 0 to {len(data) - 1}")
    data.mosaic = 1.0
    with isolated_randomness(options.seed):
        samples = {"letter box": data.plain(options.index), "Mosaic": data[options.index]}
    out = options.out or Path(f"assignment_{Path(options.config).stem}_{options.index}.png")
    save_picture(picture_of_assignment(model, samples, data.metainfo["classes"]), out)
    return out


DRAW: Mapping[str, Callable[[argparse.Namespace], Path]] = {
    "routes": draw_routes,
    "erf": draw_fields,
    "features": draw_features,
    "cam": draw_cam,
    "groups": draw_groups,
    "heatmaps": draw_heat_maps,
    "assignment": draw_assignment,
}
"""What writes the picture of each command."""

#!/usr/bin/env python3
"""Count parameters and multiply-adds of all models anew, for visionssm/catalogue/counts.json: after adding a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import visionssm
from visionssm import catalogue
from visionssm.benchmarks.flops import count_multiply_adds, multiply_adds_of
from visionssm.benchmarks.published import figures
from visionssm.files import complete_or_absent
from visionssm.heads.yolo import create_yolo

CREATE: dict[str, Callable[[str], nn.Module]] = {
    "detection": create_yolo,
    "pose": visionssm.create_pose,
    "medical": visionssm.create_segmenter,
    "restoration": visionssm.create_restorer,
    "pointcloud": visionssm.create_detector,
    "video_classification": visionssm.create_video_classifier,
}
PATH = Path(catalogue.__file__).with_name("counts.json")


def count(name: str, task: str) -> tuple[int, int | None]:
    """Parameters, and multiply-adds of one input where those do not depend on what is in it."""
    if task == "classification":
        figure = figures().get(name)
        size = catalogue.model_info(name, task=task).input_size if figure is None else (figure.size,)
        assert size is not None
        operations, parameters = multiply_adds_of(name, size[-1])
        return parameters, operations
    with torch.device("meta"):
        model = CREATE[task](name)
    size = catalogue.model_info(name, task=task).input_size
    operations = None if size is None else count_multiply_adds(model, size)
    return sum(parameter.numel() for parameter in model.parameters()), operations


def write(path: Path = PATH) -> Path:
    """Count all models anew and write the file."""
    found = {}
    for known in sorted({info.counted_as for info in catalogue.entries()}):
        task, _, name = known.partition("/")
        found[known] = count(name, task)
        print(f"{known}: {found[known]}", file=sys.stderr)
    text = "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found)) + "\n}\n"
    with complete_or_absent(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    print(f"wrote {write()}")

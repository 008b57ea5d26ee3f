"""What a checkpoint says of its model, in random variations: an error of ours, or a predictor; nothing else happens."""

from __future__ import annotations

import copy
import functools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from tests.engine.test_description import _network
from tests.fuzz.cases import case, cases, watched
from visionssm.checkpoints import CheckpointError
from visionssm.prediction import load_predictor

resource = pytest.importorskip("resource", reason="tells how much memory was taken; POSIX only")

TASKS = ("classification", "detection", "segmentation", "video")
INPUT = {"size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.2] * 3, "interpolation": "bicubic", "crop_pct": 0.9}
FIELDS = [
    *(
        "name",
        "num_classes",
        "in_chans",
        "depths",
        "depth",
        "dim",
        "dims",
        "d_state",
        "ssm_ratio",
        "mlp_ratio",
        "img_size",
    ),
    *("drop_rate", "drop_path_rate", "global_pool", "patch_size", "window_size", "embed_dim", "num_heads", "act_layer"),
    *("norm_layer", "device", "dtype", "generation", "channels", "size", "anchor_sizes", "backbone", "options", "head"),
    *("architecture", "min_size", "max_size", "box_detections_per_img", "rpn_pre_nms_top_n_test", "image_mean", "mean"),
    *("std", "crop_pct", "interpolation", "crop_mode", "atrous_rates", "auxiliary", "out_indices", "frozen_stages"),
    *(
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "init_cfg",
        "features_only",
    ),
    *("data_preprocessor", "type", "url", "file", "scriptable", "exportable", "widths", "states", "context", "steps"),
    *("", "__class__", "self", "kwargs", "model", "classes", "task", "input"),
]
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        3,
        7,
        64,
        4096,
        2**20,
        2**24,
        2**24 + 1,
        2**62,
        10**400,
        0.0,
        1e-12,
        0.5,
        -2.5,
        1e300,
    ),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "avg",
        "relu",
        "os.system",
        "../../x",
        "/etc/passwd",
        "http://127.0.0.1:9/x",
    ),
    *(
        "hf-hub:a/b",
        "local-dir:/tmp",
        "cuda:0",
        "meta",
        "vit_tiny_patch16_224",
        "vit_giant_patch14_224",
        "resnet18",
        "\x1b[2J",
    ),
    *(
        "vmamba_base_s2l15",
        "vim_tiny",
        "swin_tiny_patch4_window7_224",
        [],
        [1],
        [1, 1, 1, 1],
        [2**20] * 4,
        [1e9] * 5,
        [0] * 5000,
    ),
    *(
        {},
        {"type": "os.system", "command": "true"},
        {"url": "http://127.0.0.1:9/x"},
        [[[[[[1]]]]]],
        {"a": {"b": {"c": 1}}},
    ),
    *([3, 2**12, 2**12], [3, 8, 8], [1, 8, 8], [10**6, 8, 8], [0.0] * 3, [1e-30] * 3, ["a"], [None], b"bytes", 1j),
)


@functools.cache
def network(task: str) -> tuple[nn.Module, dict[str, Any]]:
    return _network(task)


def changed(about: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A copy with some fields replaced, added or taken away, at any depth."""
    about = copy.deepcopy(about)
    for _ in range(draw.choice((1, 1, 2, 4))):
        place: Any = about
        while isinstance(place, dict):
            inner = [key for key, value in place.items() if isinstance(value, (dict, list)) and value]
            if inner and draw.random() < 0.8:
                parent, key = place, draw.choice(inner)
                place = place[key]
            else:
                break
        if isinstance(place, dict):
            key = draw.choice([*place, *FIELDS]) if draw.random() < 0.5 and place else draw.choice(FIELDS)
            if draw.random() < 0.1:
                place.pop(key, None)
            else:
                place[key] = copy.deepcopy(draw.choice(VALUES))
        elif draw.random() < 0.5:
            place[draw.randrange(len(place))] = copy.deepcopy(draw.choice(VALUES))
        else:
            parent[key] = copy.deepcopy(draw.choice(VALUES))
    return about


HARMFUL = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "shutil.",
)


@pytest.mark.filterwarnings("ignore")  # of timm, on arguments
@pytest.mark.parametrize("task", TASKS)
def test_random_description_is_refused_or_gives_a_predictor_of_its_weights(task: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    inner, model = network(task)
    weights = {f"model.{key}": x for key, x in inner.state_dict().items()}
    honest = {"task": task, "model": model, "classes": ["a", "b", "c"][: model.get("num_classes", 0)], "context": 3}
    if task == "classification":
        honest["input"] = INPUT
    for number, draw in cases(30):
        torch.save({"meta": {"visionssm": changed(honest, draw)}, "state_dict": weights}, path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with case(number), watched() as events:
            try:
                predictor = load_predictor(path)
            except CheckpointError as error:
                assert not any(ord(letter) < 32 and letter != "\n" for letter in str(error)), repr(str(error))  # noqa: PT017
            else:
                if task != "video":
                    with torch.inference_mode():
                        predictor([Image.new("RGB", (40, 30))])
            harm = [x for x in events if x.startswith(HARMFUL) or (x.startswith("open") and "'w" in x)]
            harm = [x for x in harm if "__pycache__" not in x]  # of compiled kernels
            assert not harm, harm
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000, "kilobytes"

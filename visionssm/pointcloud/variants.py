"""The published detectors, and small ones, by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionssm.checkpoints import OfficialCfg, fetch_pretrained, load_official
from visionssm.pointcloud.detector import LionDetector
from visionssm.pointcloud.operators import OPERATORS

_WIDELY_PUBLISHED = ("mamba", "retnet", "rwkv")
"""Operators of which there are models for data sets other than KITTI."""

_STAGES = {
    "windows": ((13, 13, 32), (13, 13, 16), (13, 13, 8), (13, 13, 4)),
    "group_sizes": (4096, 2048, 1024, 512),
}
_CAR = {"size": (3.9, 1.6, 1.56), "bottom": -1.78, "matched": 0.6, "unmatched": 0.45}
_PEDESTRIAN = {"size": (0.8, 0.6, 1.73), "bottom": -0.6, "matched": 0.5, "unmatched": 0.35}
_CYCLIST = {"size": (1.76, 0.6, 1.73), "bottom": -0.6, "matched": 0.5, "unmatched": 0.35}
_PLAIN_BEV = {
    "kind": "plain",
    "layers": (5, 5),
    "strides": (1, 2),
    "channels": (128, 256),
    "up_strides": (1, 2),
    "up_channels": (256, 256),
}

_RESIDUAL_BEV = {
    "kind": "residual",
    "layers": (1, 2, 2),
    "strides": (1, 2, 2),
    "channels": (128, 128, 256),
    "up_strides": (1, 2, 4),
    "up_channels": (128, 128, 128),
}

ARGOVERSE2_GROUPS = (
    ("Regular_vehicle",),
    ("Pedestrian", "Bicyclist", "Motorcyclist", "Wheeled_rider"),
    (
        *("Bollard", "Construction_cone", "Sign", "Construction_barrel", "Stop_sign"),
        "Mobile_pedestrian_crossing_sign",
    ),
    (
        *("Large_vehicle", "Bus", "Box_truck", "Truck", "Vehicular_trailer", "Truck_cab", "School_bus"),
        *("Articulated_bus", "Message_board_trailer"),
    ),
    ("Bicycle", "Motorcycle", "Wheeled_device", "Wheelchair", "Stroller"),
    ("Dog",),
)
"""Classes of Argoverse 2 (its names, the first letter a capital) that a head of their own looks for."""


def _kitti(operator: str) -> dict[str, Any]:
    return {
        "classes": ("Car", "Pedestrian", "Cyclist"),
        "point_range": (0.0, -40.0, -3.0, 70.4, 40.0, 1.0),
        "voxel_size": (0.2, 0.2, 0.125),
        "dim": 64,
        "backbone": {"operator": operator, **_STAGES},
        "bev": _PLAIN_BEV,
        "head": {"kind": "anchor", "anchors": (_CAR, _PEDESTRIAN, _CYCLIST)},
    }


def _waymo(operator: str, dim: int = 64, drop_path: float = 0.0) -> dict[str, Any]:
    return {
        "classes": ("Vehicle", "Pedestrian", "Cyclist"),
        "point_range": (-75.52, -75.52, -2.0, 75.52, 75.52, 4.0),
        "voxel_size": (0.32, 0.32, 0.1875),
        "point_features": 5,
        "dim": dim,
        "backbone": {"operator": operator, "drop_path": drop_path, **_STAGES},
        "bev": _RESIDUAL_BEV,
        "head": {
            "kind": "center",
            "rectify": (0.68, 0.71, 0.65),
            "limits": (-80.0, -80.0, -10.0, 80.0, 80.0, 10.0),
            "overlaps": (0.75, 0.6, 0.55),
        },
    }


def _once(operator: str) -> dict[str, Any]:
    return {
        "classes": ("Car", "Bus", "Truck", "Pedestrian", "Cyclist"),
        "point_range": (-75.2, -75.2, -5.0, 75.2, 75.2, 3.0),
        "voxel_size": (0.4, 0.4, 0.25),
        "dim": 128,
        "backbone": {"operator": operator, **_STAGES},
        "bev": _PLAIN_BEV,
        "head": {"kind": "center", "bias": True, "norm": (1e-5, 0.1), "box_weight": 1.0},
    }


def _nuscenes(operator: str) -> dict[str, Any]:
    return {
        "classes": (
            *("car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle"),
            *("pedestrian", "traffic_cone"),
        ),
        "point_range": (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0),
        "voxel_size": (0.3, 0.3, 0.25),
        "point_features": 5,
        "dim": 128,
        "backbone": {"operator": operator, **_STAGES},
        "bev": {**_RESIDUAL_BEV, "up_strides": (0.5, 1, 2)},
        "head": {"kind": "transfusion"},
    }


def _argoverse2(operator: str) -> dict[str, Any]:
    return {
        "classes": tuple(name for group in ARGOVERSE2_GROUPS for name in group),
        "point_range": (-200.0, -200.0, -4.0, 200.0, 200.0, 4.0),
        "voxel_size": (0.4, 0.4, 0.25),
        "dim": 128,
        "backbone": {"kind": "flat", "operator": operator, **_STAGES},
        "bev": None,
        "head": {"kind": "sparse_center", "groups": tuple(map(len, ARGOVERSE2_GROUPS))},
    }


def _nano(operator: str) -> dict[str, Any]:
    """A seventieth of the parameters of KITTI's, and every part of it."""
    return {
        **_kitti(operator),
        "point_range": (0.0, -19.2, -3.0, 38.4, 19.2, 1.0),
        "voxel_size": (0.4, 0.4, 0.25),
        "dim": 16,
        "backbone": {
            "operator": operator,
            "windows": ((7, 7, 16), (7, 7, 8)),
            "group_sizes": (256, 128),
            "drop_path": 0.0,
        },
        "bev": {
            "kind": "plain",
            "layers": (1, 2),
            "strides": (1, 2),
            "channels": (32, 48),
            "up_strides": (1, 2),
            "up_channels": (32, 32),
        },
    }


VARIANTS: dict[str, dict[str, Any]] = {
    **{f"lion_{operator}_kitti": _kitti(operator) for operator in OPERATORS},
    **{f"lion_{operator}_waymo": _waymo(operator) for operator in _WIDELY_PUBLISHED},
    "lion_mamba_large_waymo": _waymo("mamba", dim=128, drop_path=0.2),
    **{f"lion_{operator}_once": _once(operator) for operator in _WIDELY_PUBLISHED},
    **{f"lion_{operator}_nuscenes": _nuscenes(operator) for operator in _WIDELY_PUBLISHED},
    **{f"lion_{operator}_argoverse2": _argoverse2(operator) for operator in _WIDELY_PUBLISHED},
    **{f"lion_{operator}_nano": _nano(operator) for operator in OPERATORS},
}
"""Arguments of `LionDetector` by name."""

_FILES = {
    "lion_mamba_nuscenes": "1bBzZcZUukt7B5aD3bmKlM2mT7SL8q3Fv",
    "lion_retnet_nuscenes": "1LDM6Iq91muZhzFMMa0WqKtjzJwYVadF6",
    "lion_mamba_argoverse2": "1NfgKZZZJDodhWnp-Yi3Bi-yXHWM9mW1U",
    "lion_retnet_argoverse2": "17ZTdThUvK2tnsz0ZhVUrCuJf3bvxQDTl",
    "lion_rwkv_argoverse2": "15zX5OFvd0WkdE8jsqRXMJ9JdM16gfGkM",
}

MANUAL_URLS: dict[str, str] = {name: f"https://drive.google.com/file/d/{file}/view" for name, file in _FILES.items()}
"""Pages of the published files, which only a person can download."""


SCORES: dict[str, dict[str, float]] = {
    **{
        f"lion_{operator}_kitti": {"KITTI car AP": car, "pedestrian AP": pedestrian, "cyclist AP": cyclist}
        for operator, car, pedestrian, cyclist in (
            ("mamba", 78.3, 60.2, 68.6),
            ("retnet", 77.9, 60.2, 69.6),
            ("rwkv", 78.3, 62.2, 71.2),
            ("xlstm", 77.9, 59.3, 67.4),
            ("ttt", 78.0, 58.6, 69.6),
        )
    },
    "lion_mamba_waymo": {"Waymo mAP, level 2": 75.1, "mAPH": 73.2},
    "lion_retnet_waymo": {"Waymo mAP, level 2": 74.6, "mAPH": 72.7},
    "lion_rwkv_waymo": {"Waymo mAP, level 2": 74.7, "mAPH": 72.8},
    "lion_mamba_large_waymo": {"Waymo mAP, level 2": 75.9, "mAPH": 74.0},
    "lion_mamba_nuscenes": {"nuScenes NDS": 72.1, "mAP": 68.0},
    "lion_retnet_nuscenes": {"nuScenes NDS": 71.9, "mAP": 67.3},
    "lion_rwkv_nuscenes": {"nuScenes NDS": 71.7, "mAP": 66.8},
    "lion_mamba_argoverse2": {"Argoverse 2 mAP": 41.5},
    "lion_retnet_argoverse2": {"Argoverse 2 mAP": 40.7},
    "lion_rwkv_argoverse2": {"Argoverse 2 mAP": 41.1},
    "lion_mamba_once": {"ONCE mAP": 66.6},
    "lion_retnet_once": {"ONCE mAP": 66.3},
    "lion_rwkv_once": {"ONCE mAP": 65.8},
}
"""Published precision in per cent by name, of the validation sets; KITTI's of moderate difficulty, in space."""


def list_detectors(pattern: str = "*") -> list[str]:
    """Names of the detectors of point clouds that match a shell pattern, in alphabetical order.

    Examples:
        >>> import visionssm
        >>> visionssm.list_detectors("*_nano")
        ['lion_mamba_nano', 'lion_retnet_nano', 'lion_rwkv_nano', 'lion_ttt_nano', 'lion_xlstm_nano']
    """
    return sorted(fnmatch.filter(VARIANTS, pattern))


def create_detector(name: str, pretrained: bool | str | Path = False, **changes: Any) -> LionDetector:
    """A detector of objects in point clouds.

    Args:
        name: one of `list_detectors()`.
        pretrained: whether to load the published weights; or a file to load, of the authors or of ours.
        changes: arguments of `LionDetector` in place of the variant's; mappings change the named entries only.

    Returns:
        A `LionDetector`: `detector.detections(clouds)` of a list of (points, 4) tensors gives boxes, scores and labels
        of each.

    Raises:
        ValueError: there is no such detector, or an argument is out of range; (CheckpointError) the file does not fit,
            or no weights are known.

    Examples:
        >>> import torch, visionssm
        >>> detector = visionssm.create_detector("lion_mamba_nano").eval()
        >>> cloud = torch.rand(500, 4) * torch.tensor([30, 9, 2, 1])  # x, y, z in metres, intensity
        >>> (found,) = detector.detections([cloud])
        >>> found.boxes.shape[1]  # x, y, z, length, width, height, heading
        7
    """
    if name not in VARIANTS:
        raise ValueError(f"detector {name!r} is unknown; choose one of {', '.join(list_detectors())}")
    detector = LionDetector(**arguments_of(name, changes))
    if pretrained is False:
        return detector
    cfg = OfficialCfg(architecture=name, manual_url=MANUAL_URLS.get(name))
    return load_official(detector, fetch_pretrained(cfg) if pretrained is True else pretrained)


def arguments_of(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a variant with changes, as `create_detector` takes them."""
    arguments = dict(VARIANTS[name])
    for key, value in changes.items():
        kept = arguments.get(key)
        if isinstance(value, Mapping) and isinstance(kept, Mapping):
            of_another_kind = value.get("kind", kept.get("kind")) != kept.get("kind")
            value = dict(value) if of_another_kind else {**kept, **value}
        arguments[key] = value
    return arguments

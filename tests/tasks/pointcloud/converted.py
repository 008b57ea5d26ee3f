"""Small data sets as OpenPCDet's converters write them, of rendered scenes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from visionssm.tasks.pointcloud.kitti import lidar_boxes
from visionssm.tasks.pointcloud.scenes import CALIBRATION, ScenesSpec, render

SPEC = ScenesSpec(train=3, val=1, test=1, columns=100)
NAMES = {
    "nuscenes": {"Car": "car", "Pedestrian": "pedestrian", "Cyclist": "bicycle"},
    "waymo": {"Car": "Vehicle", "Pedestrian": "Pedestrian", "Cyclist": "Cyclist"},
    "argoverse2": {"Car": "Regular_vehicle", "Pedestrian": "Pedestrian", "Cyclist": "Bicycle"},
    "once": {"Car": "Car", "Pedestrian": "Pedestrian", "Cyclist": "Cyclist"},
}


def scene_of(source: str, split: str, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, 4), boxes (M, 7) and names of a scene."""
    scene = render(SPEC, split, index)
    names = np.array([NAMES[source][label.kind] for label in scene.labels])
    return scene.points, lidar_boxes(scene.labels, CALIBRATION), names


def save(path: Path, content: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.ascontiguousarray(content, "<f4").tobytes())


def infos_of(root: Path, source: str, split: str, count: int) -> list[dict[str, Any]]:
    """Writes the points of some frames; their infos."""
    infos: list[dict[str, Any]] = []
    for index in range(count):
        points, boxes, names = scene_of(source, split, index)
        name, many = f"{split}{index}", np.full(len(boxes), 9)
        annos = {"name": names, "num_points_in_gt": many}
        if source == "nuscenes":
            ring = np.zeros((len(points), 1))
            for place in (f"samples/LIDAR_TOP/{name}.bin", f"sweeps/LIDAR_TOP/{name}.bin"):
                save(root / place, np.concatenate([points, ring], 1))
            earlier = {"lidar_path": f"sweeps/LIDAR_TOP/{name}.bin", "transform_matrix": np.eye(4), "time_lag": 0.05}
            earlier["transform_matrix"][:3, 3] = (0.5, 0, 0)
            velocities = np.concatenate([boxes, np.full((len(boxes), 2), np.nan)], 1)
            own = {"lidar_path": f"samples/LIDAR_TOP/{name}.bin", "token": name, "sweeps": [earlier] * 9}
            infos.append({**own, "gt_boxes": velocities, "gt_names": names, "num_lidar_pts": many})
        elif source == "waymo":
            rows = np.concatenate([points, np.full((len(points), 1), 0.5), np.full((len(points), 1), -1.0)], 1)
            rows[:5, 5] = 2
            (root / split).mkdir(parents=True, exist_ok=True)
            np.save(root / split / f"{index:04d}.npy", rows.astype(np.float32))
            cloud = {"num_features": 5, "lidar_sequence": split, "sample_idx": index}
            infos.append({"point_cloud": cloud, "frame_id": name, "annos": {**annos, "gt_boxes_lidar": boxes}})
        elif source == "once":
            save(root / f"data/{split}/lidar_roof/{index}.bin", points)
            infos.append({"sequence_id": split, "frame_id": str(index), "annos": {**annos, "boxes_3d": boxes}})
        else:
            save(root / f"training/velodyne/{name}.bin", points)
            parts = {"location": boxes[:, :3], "dimensions": boxes[:, 3:6], "rotation_y": boxes[:, 6]}
            infos.append({"point_cloud": {"lidar_idx": name}, "annos": {**annos, **parts}})
    return infos


FILES = {
    "nuscenes": "nuscenes_infos_10sweeps_{}.pkl",
    "waymo": "{}.txt",
    "argoverse2": "argo2_infos_{}.pkl",
    "once": "once_infos_{}.pkl",
}


def converted(root: Path, source: str) -> Path:
    """A data set with splits train and val."""
    for split, count in (("train", SPEC.train), ("val", 1)):
        infos = infos_of(root, source, split, count)
        path = root / (f"{split}/{split}.pkl" if source == "waymo" else FILES[source].format(split))
        path.write_bytes(pickle.dumps(infos))
        if source == "waymo":
            (root / f"{split}.txt").write_text(f"{split}.tfrecord\n")
    return root

"""Objects in point clouds: LION, frames in KITTI's format and rendered scenes, KITTI's average precision."""

from visionssm.engine.task import Task

_HERE = "visionssm.tasks.pointcloud"

TASK = Task(
    name="pointcloud",
    models={"PointCloudDetector": f"{_HERE}.model:PointCloudDetector"},
    datasets={
        "KittiFrames": f"{_HERE}.data:KittiFrames",
        "InfoFrames": f"{_HERE}.infos:InfoFrames",
        "Scenes": f"{_HERE}.scenes:Scenes",
    },
    metrics={"KittiMetric": f"{_HERE}.metric:KittiMetric"},
    hooks={
        "ChangesEndHook": f"{_HERE}.hooks:ChangesEndHook",
        "PrecisionRecallHook": f"{_HERE}.hooks:PrecisionRecallHook",
    },
    files={
        "calib": "of sweeps: the camera's calibration file of KITTI; what the camera does not see is left out",
        "image": "of sweeps: the camera's picture, which boxes are drawn on; needs --calib",
    },
    makes_predictor=f"{_HERE}.predictor:trained_point_cloud_detector",
    applies_exported="a sweep becomes voxels before the network, and that step is not in an ONNX file",
)

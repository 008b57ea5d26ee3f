"""Pose estimation: key points of people, animals or hands in their boxes, by heat maps; COCO's format and precision."""

from visionssm.engine.task import Task

_HERE = "visionssm.tasks.pose"

TASK = Task(
    name="pose",
    models={"PoseEstimator": f"{_HERE}.model:PoseEstimator"},
    datasets={
        "CocoKeypoints": f"{_HERE}.data:CocoKeypoints",
        "Figures": f"{_HERE}.figures:Figures",
    },
    metrics={"KeypointMetric": f"{_HERE}.metric:KeypointMetric"},
    files={
        "boxes": "of pose estimation: where people are, a .json file of tools/predict.py or in COCO's format",
        "detector": "of pose estimation: a checkpoint of a detection task, which finds the people",
    },
    makes_predictor=f"{_HERE}.predictor:trained_pose_estimator",
    applies_exported=f"{_HERE}.exported:exported_keypoint_finder",
)

"""The tasks of this package. Each is a folder: its data, model, metric, predictor and pictures, and its `TASK`.

`visionssm.engine.task` is the contract, and CONTRIBUTING.md says step by step how to add one. Importing this module
makes the tasks known by name; their folders are imported when they are first used.
"""

from visionssm.engine.task import register_task

MODULES = {
    "classification": "visionssm.tasks.classification",
    "detection": "visionssm.tasks.detection",
    "segmentation": "visionssm.tasks.segmentation",
    "video": "visionssm.tasks.video",
    "pointcloud": "visionssm.tasks.pointcloud",
    "medical": "visionssm.tasks.medical",
    "yolo": "visionssm.tasks.yolo",
    "pose": "visionssm.tasks.pose",
    "restoration": "visionssm.tasks.restoration",
    "video_classification": "visionssm.tasks.video_classification",
    "mmdet": "visionssm.tasks.openmmlab.mmdet",
    "mmseg": "visionssm.tasks.openmmlab.mmseg",
}
"""Names of tasks, as checkpoints have them, and the modules with their `TASK`."""

for _name, _module in MODULES.items():
    register_task(_name, _module)

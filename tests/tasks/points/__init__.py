"""A task of another package: classes of point clouds. Importing it makes it known."""

from visionssm.engine.task import Task, register_task

TASK = Task(
    name="points",
    models={"PointClassifier": f"{__name__}.model:PointClassifier"},
    datasets={"PointClouds": f"{__name__}.data:PointClouds"},
    metrics={"PointMetric": f"{__name__}.metric:PointMetric"},
    makes_predictor=f"{__name__}.predictor:trained_point_classifier",
    config={"val_cfg": {}, "env_cfg": {"cpu_threads": 1}},
)
register_task(TASK.name, __name__)

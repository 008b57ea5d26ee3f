"""Classification of video: clips of files or folders of frames, sparse sampling, several views of a video."""

from visionssm.engine.task import Task

_HERE = "visionssm.tasks.video_classification"

TASK = Task(
    name="video_classification",
    models={"VideoClassifier": f"{_HERE}.model:VideoClassifier"},
    datasets={
        "VideoClips": f"{_HERE}.data:VideoClips",
        "MovingDigitDirections": f"{_HERE}.moving_digits:MovingDigitDirections",
    },
    metrics={"VideoClassificationMetric": f"{_HERE}.metric:VideoClassificationMetric"},
    makes_predictor=f"{_HERE}.predictor:trained_video_classifier",
    applies_exported=f"{_HERE}.exported:exported_video_classifier",
)

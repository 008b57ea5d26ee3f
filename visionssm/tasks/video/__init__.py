"""Next-frame prediction of video: ConvS5 models, clips, error and PSNR."""

from visionssm.engine.task import Task

_HERE = "visionssm.tasks.video"

TASK = Task(
    name="video",
    models={"NextFramePredictor": f"{_HERE}.model:NextFramePredictor"},
    datasets={"MovingDigits": f"{_HERE}.data:MovingDigits"},
    metrics={"NextFrameMetric": f"{_HERE}.metric:NextFrameMetric"},
    hooks={"PredictedFramesHook": f"{_HERE}.pictures:PredictedFramesHook"},
    makes_predictor=f"{_HERE}.predictor:trained_next_frame",
    applies_exported="an exported file gives the next frame of each of a clip, and the checkpoint continues it",
)

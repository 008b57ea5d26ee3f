"""MMEngine hooks of any task: safe checkpoints, progress, figures, counts of damaged images."""

from visionssm.engine.hooks.checkpoints import SafeCheckpointHook
from visionssm.engine.hooks.corrupt import CorruptImageHook
from visionssm.engine.hooks.figures import FiguresHook
from visionssm.engine.hooks.final_test import FinalTestHook
from visionssm.engine.hooks.pictures import PredictionPicturesHook
from visionssm.engine.hooks.progress import ProgressHook

__all__ = [
    "CorruptImageHook",
    "FiguresHook",
    "FinalTestHook",
    "PredictionPicturesHook",
    "ProgressHook",
    "SafeCheckpointHook",
]

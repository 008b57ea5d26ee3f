"""Published checkpoints of VideoMamba's video models (arXiv 2403.06977), with their top-1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from visionssm.checkpoints import OfficialCfg

REPOSITORY = "OpenGVLab/VideoMamba"
LICENCE = "apache-2.0"
LETTERS = {"tiny": "t16", "small": "s16", "middle": "m16", "base": "b16"}
"""How the authors' files name a size."""


@dataclass(frozen=True)
class VideoCheckpoint:
    """A published checkpoint of a video model.

    Attributes:
        file: in the authors' repository of the Hugging Face hub.
        classes: of the data set.
        frames: of a clip.
        size: side of the frames.
        score: published top-1 in percent, a mean over clips and crops.
    """

    file: str
    classes: int
    frames: int
    size: int
    score: float

    @property
    def cfg(self) -> OfficialCfg:
        """Where the file is."""
        return OfficialCfg(hf_hub_id=REPOSITORY, hf_hub_filename=self.file, license=LICENCE)


# Data set: its classes, and (frames, side, the published top-1 of tiny, small and middle).
_TRAINED_ON: dict[str, tuple[int, tuple[tuple[int, int, tuple[float, float, float]], ...]]] = {
    "k400": (
        400,
        (
            (8, 224, (76.9, 79.3, 80.6)),
            (16, 224, (78.1, 80.8, 81.9)),
            (32, 224, (78.8, 81.5, 82.4)),
            (64, 224, (79.6, 81.8, 82.8)),
            (64, 384, (80.3, 82.7, 83.3)),
        ),
    ),
    "ssv2": (
        174,
        ((8, 224, (65.1, 66.6, 67.3)), (16, 224, (66.0, 67.7, 68.3)), (16, 288, (66.2, 68.1, 68.4))),
    ),
    "breakfast": (10, ((32, 224, (94.3, 95.3, 94.8)), (64, 224, (94.3, 97.4, 95.8)))),
}
# Of the masked pre-training, middle only. The authors' tables link other files for 16 frames, which are left out.
_MASKED = {"k400": ((8, 82.0), (32, 83.9), (64, 84.3)), "ssv2": ((8, 70.2),)}


def _video_checkpoints() -> Iterator[tuple[str, VideoCheckpoint]]:
    for column, size in enumerate(("tiny", "small", "middle")):
        for data, (classes, rows) in _TRAINED_ON.items():
            for frames, side, scores in rows:
                tag, end = (f"_{side}", f"to{side}") if side != 224 else ("", "")
                file = f"videomamba_{LETTERS[size]}_{data}_f{frames}_res224{end}.pth"
                checkpoint = VideoCheckpoint(file, classes, frames, side, scores[column])
                yield f"videomamba_{size}.{data}_f{frames}{tag}", checkpoint
    for data, masked in _MASKED.items():
        for frames, score in masked:
            file = f"videomamba_m16_{data}_mask_ft_f{frames}_res224.pth"
            checkpoint = VideoCheckpoint(file, _TRAINED_ON[data][0], frames, 224, score)
            yield f"videomamba_middle.{data}_mask_f{frames}", checkpoint


VIDEO_CHECKPOINTS: dict[str, VideoCheckpoint] = dict(_video_checkpoints())
"""Name with tag, as `create_video_classifier` takes it, to the published checkpoint."""

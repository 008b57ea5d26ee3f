"""Continuing videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor, nn

from visionssm.backbones.convs5 import ConvS5, ConvS5Config, create_convs5
from visionssm.checkpoints import CheckpointError
from visionssm.data.errors import UnreadableFileError
from visionssm.data.folders import regular_file
from visionssm.data.images import to_8_bit
from visionssm.data.videos import FrameFolder
from visionssm.engine.description import description_of, fields_of, rebuilt
from visionssm.engine.predictors import TakesClips
from visionssm.engine.task import Row, Source, View
from visionssm.tasks.video.frames import draw_frames, draw_grid, write_gif, write_png
from visionssm.tasks.video.metric import mean_psnr

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable

_MOST_STATES = 1024  # the start of a model takes the eigenvalues of a matrix of as many rows
MOST_FRAMES = 1024
"""Frames of a file that are read."""

_USUAL_SIDE = 64
"""In pixels, of the frames that an exported file is for, unless others are asked for."""


@dataclass(frozen=True)
class Continuation:
    """Frames that a model generated behind those that it was given.

    Attributes:
        given: (T, H, W, C) frames in [−1, 1].
        generated: (S, H, W, C) those that follow.
        truth: (≤ S, H, W, C) how the file goes on, as far as it does.
    """

    given: Tensor
    generated: Tensor
    truth: Tensor

    def rows(self) -> list[Row]:
        """Number in the clip, from 0, of every generated frame, and its PSNR in dB where the file has that frame."""
        return [(number, "" if psnr is None else psnr) for number, psnr in self._figures()]

    def plain(self) -> dict[str, Any]:
        """{"given": frames, "frames": [{"frame": number, "psnr": dB or null}]}."""
        frames = [{"frame": number, "psnr": psnr} for number, psnr in self._figures()]
        return {"given": len(self.given), "frames": frames}

    def save(self, folder: Path, source: Source) -> None:
        """Write NAME.png, true above given and generated frames in time, and NAME.gif, the same playing."""
        missing = len(self.generated) - len(self.truth)
        black = torch.full_like(self.generated[:missing], -1)
        clip = torch.cat([self.given, self.truth, black])
        write_png(draw_grid([(clip, self.generated)]), folder / f"{source.name}.png", scale=2)
        write_gif(draw_frames([(clip, self.generated)]), folder / f"{source.name}.gif", scale=2, milliseconds=150)

    def _figures(self) -> list[tuple[int, float | None]]:
        known = len(self.given)
        return [
            (known + i, mean_psnr(frame[None], self.truth[i : i + 1]) if i < len(self.truth) else None)
            for i, frame in enumerate(self.generated)
        ]


@dataclass(frozen=True)
class NextFrames(TakesClips):
    """A next-frame model in evaluation mode.

    Attributes:
        model: ConvS5.
        context: frames of a file that are given; the others are compared with what is generated.
        steps: frames to generate for a file that has no more than the given ones.
    """

    columns: ClassVar[tuple[str, ...]] = ("frame", "psnr")

    model: ConvS5
    context: int
    steps: int = 10

    def read(self, path: Path) -> Tensor:
        """(T, H, W, C) frames in [−1, 1] of an animated image, a folder of images or a NumPy array (.npy).

        Arrays are (T, H, W) or (T, H, W, C), of bytes or of floats in [−1, 1].

        Raises:
            UnreadableFileError: it is neither, or its frames do not fit the model.
        """
        channels, reduction = self.model.config.channels, self.model.reduction
        try:
            if path.is_dir():
                frames = _folder(path, channels)
            elif regular_file(path).suffix.lower() == ".npy":
                frames = _array(regular_file(path))
            else:
                frames = _animation(regular_file(path), channels)
        except UnreadableFileError:
            raise
        except Exception as error:  # decoders of damaged data raise whatever comes
            raise UnreadableFileError(path, f"it is no clip ({type(error).__name__}: {error})") from error
        if frames.ndim != 4 or frames.shape[-1] != channels or any(side % reduction for side in frames.shape[1:3]):
            raise UnreadableFileError(
                path,
                f"its frames are {'×'.join(map(str, frames.shape[1:]))}, but the model takes {channels} channels and "
                f"sides divisible by {reduction}",
            )
        if not torch.isfinite(frames).all():
            raise UnreadableFileError(path, "it has values that are not finite")
        return frames

    def view(self) -> View:
        """The features from which the frame after a clip is made. An input has the frames of a clip as channels."""
        channels = self.model.config.channels

        def prepare(clip: Tensor, size: Sequence[int] | None) -> Tensor:
            if size is not None:
                raise ValueError("size does not apply here: clips are not resized")
            return clip[: self.context].permute(0, 3, 1, 2).flatten(0, 1)[None]

        def picture(frames: Tensor) -> Tensor:
            return ((frames[0, -channels:] + 1) / 2).clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0)

        return View(_LastFeatures(self.model), prepare, picture, (self.context * channels, 64, 64))

    def __call__(self, samples: Sequence[Tensor]) -> list[Continuation]:
        """How every clip goes on."""
        place = next(self.model.parameters()).device
        results = []
        for clip in samples:  # one by one, as their sizes and lengths differ
            given, truth = clip[: self.context], clip[self.context :]
            generated = self.model.generate(given[None].to(place), len(truth) or self.steps)[0].float().cpu()
            results.append(Continuation(given, generated, truth))
        return results

    def exportable(self) -> Exportable:
        """What `export_archive` takes: (1, T, H, W, C) `frames` in [−1, 1] to the `next_frames` of each, of that shape.

        T is the context, and the last of the next frames follows all that are given.
        """
        from visionssm.integrations.export import Exportable, description

        return Exportable(
            _Following(self.model),
            outputs=("next_frames",),
            input="frames",
            axes={2: "height", 3: "width"},
            can_open=False,
            refused={"onnx": "its states are complex numbers, which ONNX has not; --format pt2 can hold it"},
            shape=(1, self.context, _USUAL_SIDE, _USUAL_SIDE, self.model.config.channels),
            about=description((), task="video", input="(1, T, H, W, C) in [-1, 1]", context=self.context),
        )


class _Following(nn.Module):
    def __init__(self, model: ConvS5) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, H, W, C) frames to those that follow each."""
        # A model predicts all frames of a video but the first; it does not look at the last.
        result: Tensor = self.model(torch.cat([frames, frames[:, -1:]], 1))
        return result


class _LastFeatures(nn.Module):
    """(B, T·C, H, W) frames to the features of the frame that follows, in a list of one (B, dim, H/r, W/r)."""

    def __init__(self, model: ConvS5) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> list[Tensor]:
        clip = frames.unflatten(1, (-1, self.model.config.channels)).permute(0, 1, 3, 4, 2)
        features, _ = self.model.forward_features(torch.cat([clip, clip[:, -1:]], 1))
        return [features[:, -1].permute(0, 3, 1, 2)]


def _array(path: Path) -> Tensor:
    array = np.load(path, allow_pickle=False, mmap_mode="r")[:MOST_FRAMES]
    frames = torch.from_numpy(np.array(array))
    frames = frames[..., None] if frames.ndim == 3 else frames
    if frames.dtype == torch.uint8:
        return frames.float() / 127.5 - 1
    if not frames.dtype.is_floating_point:
        raise ValueError(f"it has values of the type {array.dtype}; give bytes, or floats from -1 to 1")
    if len(frames) and frames.abs().max() > 1.001:
        raise ValueError("it has floats outside of -1 to 1")
    return frames.float()


def _folder(path: Path, channels: int) -> Tensor:
    video = FrameFolder.of(path)
    mode = "L" if channels == 1 else "RGB"
    read = (Image.fromarray(x).convert(mode) for x in video.read(range(min(video.frames, MOST_FRAMES))))
    frames = torch.from_numpy(np.stack([np.asarray(x) for x in read])).float() / 127.5 - 1
    return frames[..., None] if channels == 1 else frames


def _animation(path: Path, channels: int) -> Tensor:
    with path.open("rb") as file, Image.open(file) as image:
        kept = []
        for number, frame in enumerate(ImageSequence.Iterator(image)):
            if number == MOST_FRAMES:
                break
            kept.append(np.asarray(to_8_bit(frame, "L" if channels == 1 else "RGB")))
    frames = torch.from_numpy(np.stack(kept)).float() / 127.5 - 1
    return frames[..., None] if channels == 1 else frames


def trained_next_frame(checkpoint: Mapping[str, Any]) -> NextFrames:
    """What training wrote, as `read_checkpoint` returned it.

    Raises:
        CheckpointError: it asks for what a file may not ask for, or its weights do not fit its own description.
    """
    about = description_of(checkpoint)
    described = fields_of(about, "model", ("name", *(field.name for field in fields(ConvS5Config))))
    states = described.get("states", 1)
    if not isinstance(states, int) or not 0 < states <= _MOST_STATES:
        raise CheckpointError(f"the checkpoint's description gives no usable number of states: {states!r:.60}")
    context = about.get("context")
    if not isinstance(context, int) or not 1 <= context <= MOST_FRAMES:
        raise CheckpointError(f"the checkpoint's description gives no usable context of frames: {context!r}")
    model = rebuilt(lambda: create_convs5(**described), checkpoint, str(described.get("name")))
    return NextFrames(model, context)

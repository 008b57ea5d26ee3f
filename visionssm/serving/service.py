"""A predictor that answers to the content of files from strangers: checked, bounded, one at a time."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import io
import json
import logging
import re
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

import visionssm
from visionssm.data.errors import UnreadableFileError
from visionssm.data.text import printable
from visionssm.engine.task import Predictor, Source
from visionssm.prediction import applied

FORMATS: Mapping[str, str] = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "GIF": ".gif",
}
"""Image formats that are decoded, with a suffix for each; for some others Pillow would start other programs."""

OTHER_FILES = (".nii", ".nii.gz", ".npy", ".bin")
"""Suffixes of what some tasks take beside images: volumes, clips, sweeps."""

_IMAGES_BEGIN = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\x00", b"MM\x00*", b"RIFF", b"BM")

_logger = logging.getLogger(__name__)


class RefusedError(ValueError):
    """A request that is not answered.

    Attributes:
        status: of HTTP: 400 for a file that cannot be used, 413 for one that is too large, 500 where the model fails,
            503 while too many wait.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may ask for.

    Attributes:
        bytes: of a file.
        pixels: of an image, or numbers of a volume.
        aspect: long side ÷ short side of an image, whose short side a classifier resizes.
        waiting: requests that are worked on or wait.
        per_minute: requests of one address; 0 for any number.
    """

    bytes: int = 20 << 20
    pixels: int = 4096 * 4096
    aspect: int = 100
    waiting: int = 8
    per_minute: int = 120

    def __post_init__(self) -> None:
        for name in ("bytes", "pixels", "aspect", "waiting", "per_minute"):
            if getattr(self, name) < (0 if name == "per_minute" else 1):
                raise ValueError(f"the limit {name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True)
class Answer:
    """What was found in a file.

    Attributes:
        columns: names of what a row holds.
        rows: a table, for people.
        result: the same for programs, as `Result.plain` gives it.
        milliseconds: of reading and checking the file, of the model, and of drawing, by name.
        pictures: PNG files that show it, as data addresses; empty unless asked for.
        note: what to know of them, for people.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]
    result: Mapping[str, Any]
    milliseconds: Mapping[str, float]
    pictures: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Service:
    """A predictor for files of strangers.

    Attributes:
        predictor: of any task, or of an exported file.
        name: of the model, as it is shown.
        device: where PyTorch computes.
        limits: of requests.
        about: further facts for the model's card.
    """

    predictor: Predictor
    name: str
    device: Any = "cpu"
    limits: Limits = field(default_factory=Limits)
    about: Mapping[str, Any] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _places: threading.BoundedSemaphore = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", threading.BoundedSemaphore(self.limits.waiting))

    @property
    def takes_images(self) -> bool:
        """Whether a file must be an image."""
        return hasattr(self.predictor, "image_mode")

    @cached_property
    def explains(self) -> bool:
        """Whether the place of what speaks for a class can be shown: of classifiers in PyTorch."""
        view = getattr(self.predictor, "view", None)
        try:
            has_classes = view is not None and view().classes is not None
            return has_classes and importlib.util.find_spec("matplotlib") is not None
        except (ValueError, RuntimeError):
            return False

    def card(self) -> dict[str, Any]:
        """The model's card: what it is, what it takes, its limits."""
        predictor: Any = self.predictor
        classes = list(getattr(predictor, "classes", ()))
        model = getattr(predictor, "model", None)
        facts = {
            "model": self.name,
            "kind": type(predictor).__name__,
            "parameters": None if model is None else sum(x.numel() for x in model.parameters()),
            "number of classes": len(classes) or None,
            "classes": classes[:1000] or None,
            "input": getattr(predictor, "data", None) and list(predictor.data.get("input_size", ())),
            "license of the weights": getattr(predictor, "license", None),
            **self.about,
            "version": f"visionssm {visionssm.__version__}",
            "explains": self.explains,
            "limits": {"bytes": self.limits.bytes, "pixels": self.limits.pixels, "per minute": self.limits.per_minute},
        }
        return {name: fact for name, fact in facts.items() if fact is not None}

    def warm_up(self) -> float:
        """Apply the model to a grey image, so that kernels are compiled before the first request; seconds it took."""
        start = time.perf_counter()
        if self.takes_images:
            image = Image.new(getattr(self.predictor, "image_mode", "RGB"), (64, 64), 128)  # type: ignore[arg-type]
            try:
                with self._turn, applied(self.predictor, self.device):
                    self.predictor([image])
            except ValueError as error:  # a file that was exported for one size, for instance
                _logger.info("no warm-up: %s", error)
        return time.perf_counter() - start

    def answer(self, content: bytes, name: str = "", *, pictures: bool = False, explain: bool = False) -> Answer:
        """Apply the model to the content of a file.

        Args:
            content: of an image, or of another file that the task takes.
            name: of the file, whose suffix is looked at where it is no image.
            pictures: draw what was found.
            explain: show what speaks for the best class; of classifiers in PyTorch.
        Raises:
            RefusedError: see there. Its text names no path of this machine.
        """
        if not self._places.acquire(blocking=False):
            raise RefusedError(503, f"{self.limits.waiting} requests are waiting already: try again in a moment")
        try:
            with tempfile.TemporaryDirectory(prefix="visionssm-") as folder:
                return self._answer(content, name, Path(folder), pictures, explain)
        finally:
            self._places.release()

    def _answer(self, content: bytes, name: str, folder: Path, pictures: bool, explain: bool) -> Answer:
        if explain and not self.explains:
            raise RefusedError(400, "explain does not apply here: it is for classifiers in PyTorch")
        times = [time.perf_counter()]
        given = folder / f"file{self._checked(content, name)}"
        given.write_bytes(gzip.decompress(content) if given.suffix == ".gz" else content)
        if given.suffix == ".gz":
            given = given.rename(given.with_suffix(""))
        try:
            sample = self.predictor.read(given)
            times.append(time.perf_counter())
            with self._turn, applied(self.predictor, self.device):
                (result,) = self.predictor([sample])
            times.append(time.perf_counter())
            drawn: list[bytes] = []
            if pictures:
                (folder / "drawn").mkdir()
                result.save(folder / "drawn", Source("result", sample))
                drawn += [path.read_bytes() for path in sorted((folder / "drawn").iterdir()) if path.suffix == ".png"]
            note = ""
            if explain:
                shown, note = self._explanation(sample, result)
                drawn += [shown] if shown else []
            times.append(time.perf_counter())
            columns, rows, plain = tuple(self.predictor.columns), result.rows(), result.plain()
            json.dumps((rows, plain), allow_nan=False)
        except UnreadableFileError as error:
            raise RefusedError(400, f"the file cannot be read: {_without(folder, error.reason)}") from None
        except ValueError as error:
            if "JSON compliant" in str(error):
                raise RefusedError(500, "the model's answer has numbers that are not finite") from None
            raise RefusedError(400, f"the model cannot be applied to it: {_without(folder, error)}") from None
        except Exception as error:
            _logger.exception("the model failed")
            told = f"the model failed ({type(error).__name__}); the server's log says why"
            raise RefusedError(500, told) from None
        names = ("file", "model", "pictures")
        spent = {key: round(1000 * (b - a), 2) for key, a, b in zip(names, times, times[1:])}
        addresses = [f"data:image/png;base64,{base64.b64encode(picture).decode()}" for picture in drawn]
        return Answer(columns, rows, plain, spent, addresses, note)

    def _checked(self, content: bytes, name: str) -> str:
        """The suffix under which a file is read, once its size has been looked at before anything is decoded."""
        if not content:
            raise RefusedError(400, "the file is empty")
        if len(content) > self.limits.bytes:
            raise RefusedError(413, f"the file has {len(content):,} bytes; {self.limits.bytes:,} are taken")
        ending = re.search(r"(\.nii\.gz|\.[a-z0-9]{1,5})$", name.lower())
        if not self.takes_images and ending is not None and ending[1] in OTHER_FILES:
            if ending[1] == ".nii.gz":
                self._check_expanded(content)
            if ending[1] == ".bin" and content.startswith(_IMAGES_BEGIN):  # any bytes are points, but these mean others
                raise RefusedError(400, "the file is an image, and no sweep, whatever its name says")
            return ending[1]
        try:
            with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
                self._check_sides(image)
                return FORMATS[str(image.format)]
        except RefusedError:
            raise
        except Image.DecompressionBombError:
            raise RefusedError(
                413, f"the image has more than the {self.limits.pixels:,} pixels that are taken"
            ) from None
        except Exception:  # of damaged headers whatever comes
            wanted = f"an image ({', '.join(FORMATS)})"
            others = "" if self.takes_images else f", or a file that ends in {', '.join(OTHER_FILES)}"
            raise RefusedError(400, f"the file is not {wanted}{others}, or its beginning is damaged") from None

    def _check_sides(self, image: Image.Image) -> None:
        """Whether an image, of a video with all its frames, is within the limits."""
        frames = 1 if self.takes_images else getattr(image, "n_frames", 1)
        pixels = image.width * image.height * frames
        if pixels > self.limits.pixels:
            told = f"{image.width}×{image.height} pixels" + (f" in {frames} frames" if frames > 1 else "")
            raise RefusedError(413, f"{told} are more than the {self.limits.pixels:,} that are taken: shrink it first")
        if max(image.size) > self.limits.aspect * min(image.size):
            told = f"an image of {image.width}×{image.height} pixels is too narrow"
            raise RefusedError(400, f"{told}: its sides may differ by a factor of {self.limits.aspect}")

    def _check_expanded(self, content: bytes) -> None:
        """Whether a compressed volume is within the limits."""
        most = 8 * self.limits.pixels
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                read = 0
                while chunk := file.read(1 << 20):
                    read += len(chunk)
                    if read > most:
                        raise RefusedError(413, f"the file holds more than the {most:,} bytes that are taken")
        except (OSError, EOFError) as error:
            raise RefusedError(400, f"the file is damaged ({printable(error)})") from None
        except RefusedError:
            raise
        except Exception:  # zlib.error
            raise RefusedError(400, "the file is damaged") from None

    def _explanation(self, sample: Any, result: Any) -> tuple[bytes, str]:
        """A PNG of the image and what in it speaks for the best class, and a note; nothing where no place is told.

        A last map of one pixel tells no place. Then the image is enlarged.
        """
        import torch

        from visionssm import visualization

        view: Any = self.predictor.view()  # type: ignore[attr-defined]
        image, index, note = view.prepare(sample, None), None, ""
        height, width = image.shape[-2:]
        place = next(view.maps.parameters(), image).device
        with self._turn, torch.enable_grad():
            cam, index = visualization.class_activation_map(view.maps, image.to(place))
            if cam.min() == cam.max() and max(height, width) <= 256:
                image = view.prepare(sample, (4 * height, 4 * width))
                cam, _ = visualization.class_activation_map(view.maps, image.to(place), index)
                note = f"What speaks for the class is shown at {4 * width}×{4 * height} pixels, where its map is larger"
        if cam.min() == cam.max():
            return b"", "No place speaks for the class: the last map is one pixel, or nothing in it does."
        name, score = result.best[0]
        title = f"{name.split(',')[0]}, score {score:.2f}"
        figure = visualization.figure_of_cam(view.picture(image), cam.cpu(), title=title)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=110)
        return content.getvalue(), note


def _without(folder: Path, text: object) -> str:
    """A message without the place where the file lay for a moment."""
    shown = printable(text)
    for place in (folder.resolve(), folder):
        shown = re.sub(rf"['\"]?{re.escape(str(place))}[/\\]?[\w.]*['\"]?", "the file", shown)
    return shown[:500]

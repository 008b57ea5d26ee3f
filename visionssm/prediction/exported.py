"""Exported files (.onnx) applied to images by onnxruntime, Pillow and NumPy; PyTorch is not imported.

    predictor = load_exported("model.onnx", top_k=3)
    (result,) = predictor([predictor.read("photo.jpg")])

A file says of itself what `visionssm export` wrote into it: task, classes, and how images are prepared. Other files are
refused, and so are tasks whose files end before the result (key points, medical images, Mamba-YOLO's boxes).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from PIL import Image

from visionssm.data.errors import UnreadableFileError
from visionssm.data.evaluation_transform import EvaluationTransform
from visionssm.data.folders import regular_file
from visionssm.data.images import MAX_DECODED_PIXELS, Mode, read_image
from visionssm.engine.task import Predictor
from visionssm.tasks.classification.results import ClassResult
from visionssm.tasks.detection.results import Detection
from visionssm.tasks.segmentation.results import PixelClasses

SUFFIX = ".onnx"
MOST_CLASSES = 100_000


class ExportedFileError(ValueError):
    """A file is no exported model that can be applied to images, or gives something else than it says."""


@dataclass(frozen=True)
class Graph:
    """The network of an exported file.

    Attributes:
        path: of the file.
        about: what it says of itself, see `visionssm.integrations.export.description`.
        shape: of its input: a number for a fixed side, a name for an open one.
        dtype: of its input.
        outputs: their names.
        run: an input array to the outputs.
    """

    path: Path
    about: Mapping[str, str]
    shape: tuple[int | str, ...]
    dtype: Any
    outputs: tuple[str, ...]
    run: Callable[[np.ndarray], Sequence[np.ndarray]]

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name.

        Args:
            images: (1, C, H, W) float32.
        Raises:
            ValueError: the file is for images of another size.
        """
        for given, fixed in zip(images.shape, self.shape):
            if isinstance(fixed, int) and given != fixed:
                raise ValueError(
                    f"{self.path.name} is for inputs {self.shape}, this one is {images.shape}: export with --dynamic"
                )
        return dict(zip(self.outputs, self.run(images.astype(self.dtype, copy=False)), strict=True))

    def fact(self, name: str) -> Any:
        """One of the facts in JSON.

        Raises:
            ExportedFileError: it is not there, or no JSON.
        """
        if name not in self.about:
            raise ExportedFileError(f"{str(self.path)!r} does not say its {name}: export it again")
        try:
            return json.loads(self.about[name])
        except (ValueError, RecursionError) as error:
            raise ExportedFileError(f"{str(self.path)!r} does not say its {name} in JSON: {error}") from None

    def classes(self, first: int) -> tuple[str, ...]:
        """Names of the classes from the number `first` on."""
        named = self.fact("classes")
        numbers = range(first, first + len(named)) if isinstance(named, dict) else ()
        if not 0 < len(numbers) <= MOST_CLASSES or any(not isinstance(named.get(str(i)), str) for i in numbers):
            raise ExportedFileError(f"{str(self.path)!r} does not name its classes by number from {first} on")
        return tuple(named[str(i)] for i in numbers)


def open_graph(path: str | Path) -> Graph:
    """Open an exported file with onnxruntime, on the CPU.

    Raises:
        ImportError: onnxruntime is not installed.
        FileNotFoundError: there is no such file.
        ExportedFileError: it is no ONNX file of one input, or was not written by `visionssm export`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "onnxruntime is missing: pip install onnxruntime, or pip install 'visionssm[export]'"
        ) from error
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no file {str(path)!r}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        # The content and not the path: a file that names others for its weights is not followed.
        content = regular_file(path).read_bytes()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map
        inputs, outputs = session.get_inputs(), tuple(output.name for output in session.get_outputs())
    except UnreadableFileError:
        raise
    except Exception as error:  # onnxruntime's errors have no common class
        reason = str(error).strip().split("\n")[0][:300]
        raise ExportedFileError(f"{str(path)!r} cannot be opened by onnxruntime: {reason}") from error
    if len(inputs) != 1 or not about.get("producer", "").startswith("visionssm "):
        raise ExportedFileError(
            f"{str(path)!r} was not written by visionssm export, and does not say how images are prepared for it"
        )
    dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    if inputs[0].type not in dtypes or len(inputs[0].shape) != 4:
        raise ExportedFileError(f"{str(path)!r} takes {inputs[0].type} of {inputs[0].shape}, which is no image")

    def run(images: np.ndarray) -> Sequence[np.ndarray]:
        return cast(Sequence[np.ndarray], session.run(None, {inputs[0].name: images}))

    return Graph(path, about, tuple(inputs[0].shape), dtypes[inputs[0].type], outputs, run)


@dataclass(frozen=True)
class ExportedClassifier:
    """An exported classifier.

    Attributes:
        graph: (1, C, H, W) images to `scores`, (1, classes) before softmax.
        classes: class names in the order of the scores.
        transform: an image to (C, H, W).
        top_k: classes that a result holds.
    """

    columns: ClassVar[tuple[str, ...]] = ("rank", "class", "score")
    model: ClassVar[None] = None

    graph: Graph
    classes: Sequence[str]
    transform: EvaluationTransform
    top_k: int = 5

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")

    @classmethod
    def of(cls, graph: Graph) -> ExportedClassifier:
        """The classifier in a file that says how images are prepared."""
        known = EvaluationTransform.__dataclass_fields__
        facts = {name: _text_or_json(graph, name) for name in known if name in graph.about}
        try:
            transform = EvaluationTransform.of(facts)
        except ValueError as error:
            raise ExportedFileError(f"{str(graph.path)!r} does not say how images are prepared: {error}") from None
        return cls(graph, graph.classes(0), transform)

    @property
    def image_mode(self) -> Mode:
        """What images are read as."""
        return cast(Mode, self.transform.mode)

    def read(self, path: Path) -> Image.Image:
        """An image file; see `read_image`."""
        return read_image(path, self.image_mode)

    def __call__(self, images: Sequence[Image.Image]) -> list[ClassResult]:
        """The best classes of every image."""
        return [self._result(image) for image in images]

    def _result(self, image: Image.Image) -> ClassResult:
        scores = _output(self.graph(self.transform(image)[None]), "scores")[0].astype(np.float32)  # (classes,)
        if scores.shape != (len(self.classes),):
            raise ExportedFileError(f"the file gives {scores.shape} scores for {len(self.classes)} class names")
        shifted = np.exp(scores - scores.max())
        likely = shifted / shifted.sum()
        best = np.argsort(-likely, kind="stable")[: self.top_k]
        return ClassResult([(self.classes[i], float(likely[i])) for i in best])


@dataclass(frozen=True)
class ExportedDetector:
    """An exported detector.

    Attributes:
        graph: a (1, 3, H, W) image in [0, 1] to `boxes`, `scores`, `labels` and perhaps `masks`.
        classes: class names; the first has the number 1 in the file.
        threshold: least score of an object that is reported.
    """

    columns: ClassVar[tuple[str, ...]] = ("class", "score", "left", "top", "right", "bottom")
    image_mode: ClassVar[Mode] = "RGB"
    model: ClassVar[None] = None

    graph: Graph
    classes: Sequence[str]
    threshold: float = 0.5

    @classmethod
    def of(cls, graph: Graph) -> ExportedDetector:
        """The detector in a file."""
        return cls(graph, graph.classes(1))

    def read(self, path: Path) -> Image.Image:
        """An image file; see `read_image`."""
        return read_image(path, max_pixels=MAX_DECODED_PIXELS)

    def __call__(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Objects of every image whose score reaches the threshold."""
        return [self._result(image) for image in images]

    def _result(self, image: Image.Image) -> Detection:
        found = self.graph(_plain(image))
        boxes, scores, labels = (_output(found, name) for name in ("boxes", "scores", "labels"))
        certain = scores >= self.threshold
        numbers = labels[certain].astype(np.int64) - 1
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self.classes):
            raise ExportedFileError(
                f"the file gives class numbers for which it has no names: {labels[certain].tolist()}"
            )
        masks = found["masks"][certain, 0] > 0.5 if "masks" in found else None
        return Detection(self.classes, numbers, scores[certain], boxes[certain], masks)


@dataclass(frozen=True)
class ExportedSegmenter:
    """An exported segmentation model.

    Attributes:
        graph: a (1, 3, H, W) image in [0, 1] to `classes`, the (1, H, W) number of every pixel's class.
        classes: class names.
    """

    columns: ClassVar[tuple[str, ...]] = ("class", "share")
    has_masks: ClassVar[bool] = True
    image_mode: ClassVar[Mode] = "RGB"
    model: ClassVar[None] = None

    graph: Graph
    classes: Sequence[str]

    @classmethod
    def of(cls, graph: Graph) -> ExportedSegmenter:
        """The segmentation model in a file."""
        return cls(graph, graph.classes(0))

    def read(self, path: Path) -> Image.Image:
        """An image file; see `read_image`."""
        return read_image(path, max_pixels=MAX_DECODED_PIXELS)

    def __call__(self, images: Sequence[Image.Image]) -> list[PixelClasses]:
        """Classes of the pixels of every image, at its own size."""
        return [self._result(image) for image in images]

    def _result(self, image: Image.Image) -> PixelClasses:
        numbers = _output(self.graph(_plain(image)), "classes")[0]
        if numbers.shape != (image.height, image.width) or not 0 <= numbers.min() <= numbers.max() < len(self.classes):
            raise ExportedFileError("the file gives class numbers for other pixels, or without names")
        return PixelClasses(self.classes, numbers)


KINDS: Mapping[str, Callable[[Graph], Any]] = {
    "classification": ExportedClassifier.of,
    "detection": ExportedDetector.of,
    "segmentation": ExportedSegmenter.of,
}


def load_exported(path: str | Path, **options: Any) -> Predictor:
    """The predictor in a file that `visionssm export` wrote; it runs in onnxruntime, without PyTorch.

    Args:
        path: .onnx file of a classifier, a detector of torchvision's or a segmentation model. Files of the last two are
            for images of any size if they were exported with --dynamic, else for one size.
        options: fields of the predictor to change (`top_k`, `threshold`); those that are None stay as they are.
    Raises:
        FileNotFoundError, UnreadableFileError: the file cannot be read.
        ImportError: onnxruntime is not installed.
        ExportedFileError: (a ValueError) it is another file, or of another task.
        ValueError: the task has no such option.
    """
    graph = open_graph(path)
    task = graph.about.get("task")
    if task is None or task not in KINDS:
        said = "does not say its task (an older version wrote it: export again)" if task is None else f"is of {task!r}"
        raise ExportedFileError(
            f"{str(graph.path)!r} {said}; exported files of {', '.join(KINDS)} are applied to images. Apply the "
            "checkpoint itself, or the file by onnxruntime: its metadata say what it takes and gives"
        )
    return with_options(KINDS[task](graph), options)


def with_options(predictor: Any, options: Mapping[str, Any]) -> Predictor:
    """A predictor with other values of its fields; those that are None stay as they are.

    Raises:
        ValueError: there is no such field, or no such value.
    """
    given = {name: value for name, value in options.items() if value is not None}
    known = {field.name for field in fields(predictor)}
    for name in given:
        if name not in known:
            raise ValueError(f"{name} does not apply here: a {type(predictor).__name__} has no such option")
    return cast(Predictor, replace(predictor, **given))


def _text_or_json(graph: Graph, name: str) -> Any:
    return graph.about[name] if name in ("interpolation", "crop_mode") else graph.fact(name)


def _plain(image: Image.Image) -> np.ndarray:
    """(1, 3, H, W) in [0, 1]."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def _output(found: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in found:
        raise ExportedFileError(f"the file has no output {name!r}; it has {', '.join(found)}")
    return found[name]

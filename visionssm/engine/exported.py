"""Exported files as functions of arrays, with what they say of themselves; what tasks make predictors of.

    graph = open_graph("model.onnx")
    graph.about["task"], graph(np.zeros((1, 3, 224, 224), np.float32))["scores"]

ONNX files run in onnxruntime, and PyTorch is not imported. Archives of `torch.export` (.pt2) run in PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from visionssm.data.errors import UnreadableFileError
from visionssm.data.folders import regular_file
from visionssm.engine.finite import check_finite
from visionssm.engine.task import Predictor, find_task, located, task_names

MOST_CLASSES = 100_000
MOST_OF_A_FACT = 16 << 20
"""Characters of what a file says of itself under one name."""

ValueT = TypeVar("ValueT")


class ExportedFileError(ValueError):
    """A file is no exported model that can be applied to files, or gives something else than it says."""


@dataclass(frozen=True)
class Graph:
    """The network of an exported file.

    Attributes:
        path: of the file.
        about: what it says of itself, see `visionssm.integrations.export.description`.
        input: name of what it takes.
        shape: of that: a number for a fixed side, a name for an open one.
        dtype: of that.
        outputs: their names.
        run: an input array to the outputs.
    """

    path: Path
    about: Mapping[str, str]
    input: str
    shape: tuple[int | str, ...]
    dtype: Any
    outputs: tuple[str, ...]
    run: Callable[[np.ndarray], Sequence[np.ndarray]]

    def __call__(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name.

        Args:
            inputs: of `shape`, float32.
        Raises:
            ValueError: the file is for inputs of another size, or gives NaN or infinite numbers.
        """
        for given, fixed in zip(inputs.shape, self.shape):
            if isinstance(fixed, int) and given != fixed:
                raise ValueError(
                    f"{self.path.name} is for inputs {self.shape}, this one is {inputs.shape}: export with --dynamic"
                )
        found = dict(zip(self.outputs, self.run(inputs.astype(self.dtype, copy=False)), strict=True))
        check_finite(all(bool(np.isfinite(x).all()) for x in found.values()))
        return found

    def output(self, inputs: np.ndarray, name: str) -> np.ndarray:
        """One of the outputs.

        Raises:
            ExportedFileError: there is none of this name.
        """
        return named(self(inputs), name)

    @property
    def fixed_sides(self) -> tuple[int, ...] | None:
        """Sides of an image or a volume, where they are fixed."""
        sides = self.shape[2:]
        return tuple(x for x in sides if isinstance(x, int)) if all(isinstance(x, int) for x in sides) else None

    def fact(self, name: str, usual: Any = None) -> Any:
        """One of the facts in JSON.

        Args:
            name: of the fact.
            usual: what it is where the file does not say it; None where it must.
        Raises:
            ExportedFileError: it is not there, or no JSON.
        """
        if name not in self.about:
            if usual is not None:
                return usual
            raise ExportedFileError(f"{str(self.path)!r} does not say its {name}: export it again")
        text = self.about[name]
        if len(text) > MOST_OF_A_FACT:
            raise ExportedFileError(f"{str(self.path)!r} says {len(text):,} characters of its {name}, which is no fact")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ExportedFileError(f"{str(self.path)!r} does not say its {name} in JSON: {error}") from None

    def number(self, name: str, low: float, high: float, *, whole: bool = False) -> Any:
        """A fact that is a number.

        Raises:
            ExportedFileError: it is not there, or no number of this range.
        """
        value = self.fact(name)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
            raise ExportedFileError(
                f"{str(self.path)!r} says {name}={value!r:.60}, which is no number from {low} to {high}"
            )
        return value

    def classes(self, first: int) -> tuple[str, ...]:
        """Names of the classes from the number `first` on."""
        named = self.fact("classes")
        numbers = range(first, first + len(named)) if isinstance(named, dict) else ()
        if not 0 < len(numbers) <= MOST_CLASSES or any(not isinstance(named.get(str(i)), str) for i in numbers):
            raise ExportedFileError(f"{str(self.path)!r} does not name its classes by number from {first} on")
        return tuple(named[str(i)] for i in numbers)

    def made(self, make: Callable[[], ValueT], what: str) -> ValueT:
        """Something that the facts describe.

        Raises:
            ExportedFileError: they do not.
        """
        try:
            return make()
        except ExportedFileError:
            raise
        except (ValueError, TypeError, OverflowError) as error:
            raise ExportedFileError(f"{str(self.path)!r} does not say {what}: {error}") from None


def named(found: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """One of a file's outputs.

    Raises:
        ExportedFileError: there is none of this name.
    """
    if name not in found:
        raise ExportedFileError(f"the file has no output {name!r}; it has {', '.join(found)}")
    return found[name]


def open_onnx(path: Path) -> Graph:
    """Open an ONNX file with onnxruntime, on the CPU; see `open_graph`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "onnxruntime is missing: pip install onnxruntime, or pip install 'visionssm[export]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
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
        raise ExportedFileError(foreign(path))
    dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    if inputs[0].type not in dtypes:
        raise ExportedFileError(f"{str(path)!r} takes {inputs[0].type} of {inputs[0].shape}, which is no image")

    def run(given: np.ndarray) -> Sequence[np.ndarray]:
        return cast(Sequence[np.ndarray], session.run(None, {inputs[0].name: given}))

    return Graph(path, about, inputs[0].name, tuple(inputs[0].shape), dtypes[inputs[0].type], outputs, run)


def foreign(path: Path) -> str:
    """What is said of a file that another program wrote."""
    return f"{str(path)!r} was not written by visionssm export, and does not say how images are prepared for it"


OPENERS: Mapping[str, str] = {
    ".onnx": "visionssm.engine.exported:open_onnx",
    ".pt2": "visionssm.integrations.export.archive:open_archive",
}
"""Suffixes of exported files, and what opens each: "module:function"."""


def is_exported(path: str | Path) -> bool:
    """Whether the name is that of an exported file."""
    return Path(path).suffix.lower() in OPENERS


def open_graph(path: str | Path) -> Graph:
    """Open an exported file, by its suffix: .onnx in onnxruntime, on the CPU; .pt2 in PyTorch.

    Raises:
        ImportError: onnxruntime or PyTorch is not installed.
        FileNotFoundError: there is no such file.
        UnreadableFileError: it cannot be read.
        ExportedFileError: it is no exported file of one input, or was not written by `visionssm export`.
    """
    path = Path(path).expanduser()
    opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        raise ExportedFileError(f"{str(path)!r} must end in {' or '.join(OPENERS)}")
    if not path.exists():
        raise FileNotFoundError(f"no file {str(path)!r}")
    graph: Graph = located(opener)(path)
    return graph


def load_exported(path: str | Path, **options: Any) -> Predictor:
    """The predictor in a file that `visionssm export` wrote; one in ONNX runs without PyTorch.

    Args:
        path: .onnx or .pt2 file of any task whose `TASK` says how its files are applied. Files that were exported with
            --dynamic are for images of any size, others for one size.
        options: fields of the predictor to change (`top_k`, `threshold`); those that are None stay as they are.
    Raises:
        FileNotFoundError, UnreadableFileError: the file cannot be read.
        ImportError: onnxruntime, or for .pt2 PyTorch, is not installed.
        ExportedFileError: (a ValueError) it is another file, or of a task whose files are not applied to files.
        ValueError: the task has no such option.
    """
    graph = open_graph(path)
    name = graph.about.get("task")
    if name is None:
        raise ExportedFileError(
            f"{str(graph.path)!r} does not say its task: an older version wrote it, or a network alone was exported. "
            "Take the checkpoint itself and export again"
        )
    if name not in task_names():
        raise ExportedFileError(f"{str(graph.path)!r} is of {name!r:.80}; known tasks are {', '.join(task_names())}")
    return with_options(find_task(name).exported_predictor(graph), options)


def with_options(predictor: Any, options: Mapping[str, Any]) -> Predictor:
    """A predictor with other values of its fields; those that are None stay as they are.

    Raises:
        ValueError: there is no such field, or no such value.
    """
    given = {name: value for name, value in options.items() if value is not None}
    known = {field.name for field in fields(predictor) if field.init}
    for name in given:
        if name not in known:
            raise ValueError(f"{name} does not apply here: a {type(predictor).__name__} has no such option")
    return cast(Predictor, replace(predictor, **given))

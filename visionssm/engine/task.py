"""The contract of a task: what its folder offers to the engine, to prediction and to the tools.

A task is a folder with a `TASK = Task(...)` in its `__init__.py`, which imports nothing but this module: types are
named as "module:attribute" and imported when a configuration or a checkpoint asks for them.

    TASK = Task(
        name="detection",
        models={"TorchvisionDetector": "visionssm.tasks.detection.model:TorchvisionDetector"},
        datasets={"CocoInstances": "visionssm.tasks.detection.data:CocoInstances"},
        metrics={"DetectionMetric": "visionssm.tasks.detection.metric:DetectionMetric"},
        makes_predictor="visionssm.tasks.detection.predictor:trained_detector",
    )

Nothing here needs the train extra.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from PIL import Image

from visionssm.extras import MissingExtraError, needs_extra

if TYPE_CHECKING:
    from torch import Tensor, nn

    from visionssm.engine.exported import Graph

Row = tuple[str | int | float, ...]
Places = Mapping[str, str]
"""Names in a registry of MMEngine, and where each is defined: "module:attribute"."""


class Source(NamedTuple):
    """What a result was found in.

    Attributes:
        name: of the files that the result saves, without suffix; different for every sample of a run.
        sample: what the predictor's `read` returned.
    """

    name: str
    sample: Any


class View(NamedTuple):
    """What is to be seen of a predictor's network: its feature maps; `tools/visualize.py` draws them.

    Attributes:
        maps: module from (1, C, H, W) inputs to a list of maps (1, D, H', W'), or one with timm's
            `forward_intermediates`.
        prepare: a sample, and a size (H, W) or None for that which the network is used at, to a (1, C, H, W) input.
        picture: such an input back to (H, W, 3) in [0, 1].
        shape: (C, H, W) of an input, where there is no sample.
        classes: names of the classes if `maps` is a whole classifier, whose decisions can be explained.
    """

    maps: nn.Module
    prepare: Callable[[Any, Sequence[int] | None], Tensor]
    picture: Callable[[Tensor], Tensor]
    shape: tuple[int, int, int]
    classes: Sequence[str] | None = None


class Result(Protocol):
    """What a predictor found in one sample."""

    def rows(self) -> list[Row]:
        """Lines of a table, in the predictor's columns."""

    def plain(self) -> dict[str, Any]:
        """The same for JSON: dicts, lists, strings and numbers."""

    def save(self, folder: Path, source: Source) -> None:
        """Write pictures of it, or whatever shows it, into a folder that is there, named after `source.name`."""


class Predictor(Protocol):
    """A model with all that is needed to apply it to files. Implementations are frozen dataclasses.

    What it may have beside that: `exportable()`, which gives a `visionssm.integrations.export.Exportable`, and
    `exportable_with_nms()`, which gives one without overlapping boxes where the first gives all; `view()`, which
    gives a `View`; `has_masks = True` if its results have `save_masks(folder, source)`, which writes label images or
    volumes; `writes_beside = True` if its results are files themselves and have `save_beside(path)`, which writes one
    beside the file that it was made of; `at_once`, the most samples that it takes together, where these are large;
    `samples_below(folder)`, which lists what in and below a folder `read` takes, where a folder may be a sample.
    """

    @property
    def model(self) -> nn.Module:
        """In evaluation mode."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what a row of its results holds."""

    def read(self, path: Path) -> Any:
        """A sample from a file.

        Raises:
            UnreadableFileError: (a ValueError) with the reason.
        """

    def __call__(self, samples: Sequence[Any]) -> Sequence[Result]:
        """Results of samples, one each, computed where the model's parameters are."""


class Metric:
    """Base of a task's metric; the engine makes MMEngine's of it, over all processes.

    Attributes:
        results: what `process` has kept of this evaluation.
        dataset_meta: `metainfo` of the data set.
        dataset: the whole set, for metrics that need more of it than the model's answers, as objects that no sample is
            of. The engine sets both.
        keep: samples of the data set, from the first on, whose pictures are kept.
        pictures: index and picture of these in the last evaluation.
        complete: `write` will be called: `process` must keep all that it needs.
        formats: suffixes of files that `write` can make; "" for a folder.
    """

    formats: ClassVar[tuple[str, ...]] = ()
    dataset_meta: Mapping[str, Any] | None = None
    dataset: Any = None
    keep: int = 0
    complete: bool = False

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.pictures: list[tuple[int, Image.Image]] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep what is needed of one batch: of the model's answers, a dict per sample."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Figures by name, of everything that was kept."""
        raise NotImplementedError

    def write(self, path: Path, dataset: Any) -> None:
        """Write what was found in every sample, for other programs to read.

        Args:
            path: file with a suffix of `formats`, or a folder; what it lies in is there.
            dataset: gives the samples' names, `sample_name(index)`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Task:
    """What there is to know of a task.

    Attributes:
        name: what checkpoints of it say that they are of.
        makes_predictor: "module:function" from what `read_checkpoint` returned to a `Predictor`.
        applies_exported: "module:function" from a `visionssm.engine.exported.Graph`, the network of an exported
            file, to a `Predictor` whose `model` is None; its module imports no PyTorch. A task whose exported files are
            not applied to files says why, in a sentence.
        models, datasets, metrics, hooks: types that configs name. Metrics may be plain `Metric` classes.
        files: fields of its predictor that take the path of a file, and what they are for; `tools/predict.py` has
            them as arguments.
        numbers: likewise, fields that take a whole number.
        extra: of this package, that installs all that the task needs.
        packages: that configs of it cannot do without, beside those of the extra "train".
        scope: value of `default_scope` in its configs, for tasks whose models belong to another package.
        prepares: modules that are imported before a config of it is looked at, as those that fill `SCOPES`.
        config: top-level keys that its configs get where they have none.
        options: further top-level keys that mean something in its configs.
        completes: "module:function" that fills in, in place, what a config leaves to its data.
    """

    name: str
    makes_predictor: str
    applies_exported: str = "files of this task are not applied to files here"
    models: Places = field(default_factory=dict)
    datasets: Places = field(default_factory=dict)
    metrics: Places = field(default_factory=dict)
    hooks: Places = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)
    extra: str = "train"
    packages: tuple[str, ...] = ()
    scope: str | None = None
    prepares: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    options: frozenset[str] = frozenset()
    completes: str | None = None

    @property
    def types(self) -> frozenset[str]:
        """All names that a config may ask for."""
        return frozenset().union(self.models, self.datasets, self.metrics, self.hooks)

    def predictor(self, checkpoint: Mapping[str, Any]) -> Predictor:
        """What applies a checkpoint, as `read_checkpoint` returned it, to files.

        Raises:
            CheckpointError: its description or its weights do not fit.
            MissingExtraError: (an ImportError) packages are not installed.
        """
        with needs_extra(self.extra, f"a checkpoint of the task {self.name!r}"):
            return located(self.makes_predictor)(checkpoint)

    def exported_predictor(self, graph: Graph) -> Predictor:
        """What applies an exported file to files.

        Raises:
            ValueError: (ExportedFileError) it does not say what is needed, or files of this task are not applied.
            MissingExtraError: (an ImportError) packages are not installed.
        """
        if " " in self.applies_exported:
            raise ValueError(
                f"{str(graph.path)!r} is of the task {self.name!r}: {self.applies_exported}. Apply the checkpoint "
                "itself, or the file by its runtime: its metadata say what it takes and gives"
            )
        return located(self.applies_exported)(graph)

    def require(self) -> None:
        """Look whether its packages are installed.

        Raises:
            MissingExtraError: (an ImportError) naming the missing ones and their extra.
        """
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise MissingExtraError(f"{' or '.join(missing)} is not installed: pip install visionssm[{self.extra}]")


def located(place: str) -> Any:
    """What "module:attribute" names."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


_MODULES: dict[str, str] = {}


def register_task(name: str, module: str) -> None:
    """Make a task known by the module that has its `TASK`; that module is imported when the task is first used.

    Tasks of this package are in the table of `visionssm.tasks`; others call this where they are imported.

    Raises:
        ValueError: another module has a task of this name.
    """
    if _MODULES.setdefault(name, module) != module:
        raise ValueError(f"the task {name!r} of {module} has the name of that of {_MODULES[name]}; choose another name")


def task_names() -> list[str]:
    """Names of all known tasks."""
    return list(_MODULES)


def find_task(name: str) -> Task:
    """The known task of this name.

    Raises:
        KeyError: there is none.
        ValueError: the module that is registered for the name has a task of another name.
    """
    module = _MODULES[name]
    task: Task = importlib.import_module(module).TASK
    if task.name != name:
        raise ValueError(f"{module}.TASK is named {task.name!r}, but registered as {name!r}")
    return task


def all_tasks() -> Iterable[Task]:
    """All known tasks."""
    return map(find_task, _MODULES)

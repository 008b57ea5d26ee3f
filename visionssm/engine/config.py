"""Reading configurations, and refusing mistakes in them before anything is built."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    VISUALIZERS,
    DefaultScope,
    Registry,
)
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from mmengine.utils import is_installed
from torch.utils.data import DataLoader

from visionssm.data.errors import DatasetError
from visionssm.data.spelling import closest
from visionssm.engine.errors import ConfigError
from visionssm.engine.schedules import check_schedules, follow_length, lengths
from visionssm.engine.scopes import SCOPES
from visionssm.engine.sharding import check_sharding
from visionssm.engine.shipped import find_config
from visionssm.engine.task import all_tasks, located
from visionssm.engine.top_level import RUNNER_KEYS, check_options, check_parts, check_top_level
from visionssm.engine.types import offered_names, use_tasks
from visionssm.extras import MissingExtraError, extra_of

if not is_installed(MODULE2PACKAGE["mmseg"]):  # its continuation has another name as a distribution
    MODULE2PACKAGE["mmseg"] = "mmseg"  # `_base_ = "mmseg::…"` asks for it by that of the module

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_LOADER_KEYS = set(inspect.signature(DataLoader.__init__).parameters) - {"self"} | {"num_batch_per_epoch"}


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a configuration file and merge `--cfg-options` into it; schedules follow a length that these change.

    Args:
        path: a file, or the name of a configuration that comes with the package (see `find_config`).
        options: values by dotted key.

    Raises:
        ConfigError: no such file, or it does not run.
        MissingExtraError: (an ImportError) it imports what is not installed.
    """
    path = find_config(path)
    if not path.is_file():
        raise ConfigError(f"no configuration {str(path)!r}{_whereabouts(path)}")
    try:
        config = Config.fromfile(path)
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, MissingExtraError):
            raise cause from error
        missing = _missing(cause)
        extra = extra_of(missing)
        if extra is not None:
            raise MissingExtraError(f"{missing} is not installed: pip install 'visionssm[{extra}]'") from error
        raise ConfigError(f"cannot read the configuration {str(path)!r}: {type(cause).__name__}: {cause}") from error
    check_options(options or (), config, RUNNER_KEYS.union(*(task.options for task in all_tasks())))
    before = lengths(config)
    try:
        config.merge_from_dict(copy.deepcopy(dict(options or {})))  # merging takes `_delete_` keys out
    except (KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"--cfg-options do not fit {str(path)!r}: {error}") from error
    if not any(key.split(".")[0] == "param_scheduler" for key in options or ()):
        follow_length(config, before)
    return config


def _missing(error: BaseException) -> str | None:
    """The module that an error misses; of MMEngine's `_base_ = "mmdet::…"` only the text names it."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    told = re.match(r"(\w+) is not installed", str(error))
    return told[1] if told else error.name


def _whereabouts(path: Path) -> str:
    """Where the configuration may be instead: elsewhere below `configs`, or beside `path` under a similar name."""
    for folder in path.parents:
        if folder.name == "configs":
            found = sorted(str(x) for x in folder.rglob("*.py") if x.name == path.name)
            if found:
                return f"; it is at {' and '.join(found)}"
    beside = [x.name for x in path.parent.glob("*.py")] if path.parent.is_dir() else []
    return f"; closest in that folder: {closest(path.name, beside)}" if beside else ""


def _cause(error: BaseException) -> BaseException:
    """The error that made an import of `custom_imports` fail; MMEngine's own ImportError shows `sys.path` instead."""
    while isinstance(error, ImportError) and not isinstance(error, MissingExtraError):
        behind = error.__cause__ or error.__context__
        if behind is None:
            break
        error = behind
    return error


def check_config(cfg: Mapping[str, Any]) -> None:
    """Find keys that nothing would read, at top level and in every section whose `type` is known.

    Types of the tasks that it names are registered first.

    Variables that only help to write a config start with an underscore; of configs for mmdet and mmseg see
    `check_top_level`.

    Raises:
        ConfigError: naming the key, its section and the closest valid key.
    """
    tasks = use_tasks(cfg)
    known = RUNNER_KEYS.union(*(task.options for task in tasks))
    check_top_level(cfg, known, free=any(task.scope is not None for task in tasks))
    check_parts(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):  # where its names are found
        for where, section, registry in _sections(cfg):
            _check_section(where, section, registry)
        _check_train_cfg(cfg.get("train_cfg"))
    check_schedules(cfg)
    check_sharding(cfg)
    for name in _LOADERS:
        loader = cfg.get(name)
        for key in loader if isinstance(loader, Mapping) else ():
            if key not in _LOADER_KEYS:
                raise ConfigError(f"unknown key {key!r} in {name}; closest: {closest(key, _LOADER_KEYS)}")
        for key, least in (("batch_size", 1), ("num_workers", 0)):
            if isinstance(loader, Mapping) and loader.get(key) is not None:
                _check_count(f"{name}.{key}", loader[key], least)


def _check_count(where: str, value: Any, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{where} must be a whole number, {least} or more, got {value!r}")


def _check_train_cfg(section: Any) -> None:
    for key in ("max_epochs", "max_iters", "val_interval"):
        if isinstance(section, Mapping) and key in section:
            _check_count(f"train_cfg.{key}", section[key])
    if not isinstance(section, Mapping):
        return
    if "type" in section:
        by_epoch, named = section.get("by_epoch"), section["type"]
        kind = LOOPS.get(named) if isinstance(named, str) else named
        contrary = IterBasedTrainLoop if by_epoch else EpochBasedTrainLoop
        if by_epoch is not None and inspect.isclass(kind) and issubclass(kind, contrary):
            raise ConfigError(f"train_cfg.by_epoch={by_epoch}, but its type is {_name(named)}: leave one out")
        return
    loop = "ResumableEpochLoop" if section.get("by_epoch", True) else "ResumableIterLoop"
    _check_section("train_cfg", {"type": loop, **section}, LOOPS)
    length = "max_epochs" if section.get("by_epoch", True) else "max_iters"
    if length not in section:
        raise ConfigError(f"train_cfg has no {length!r}, the length of the training")


def _sections(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any, Registry]]:
    yield "model", cfg.get("model"), MODELS
    for name in _LOADERS:
        loader = cfg.get(name)
        if isinstance(loader, Mapping):
            yield f"{name}.dataset", loader.get("dataset"), DATASETS
            yield f"{name}.sampler", loader.get("sampler"), DATA_SAMPLERS
    wrapper = cfg.get("optim_wrapper")
    if isinstance(wrapper, Mapping):
        if "optimizer" in wrapper:
            yield "optim_wrapper", {"type": "OptimWrapper", **wrapper}, OPTIM_WRAPPERS
        yield "optim_wrapper.optimizer", wrapper.get("optimizer"), OPTIMIZERS
    yield "param_scheduler", cfg.get("param_scheduler"), PARAM_SCHEDULERS
    yield "custom_hooks", cfg.get("custom_hooks"), HOOKS
    hooks = cfg.get("default_hooks")
    for name, hook in (hooks or {}).items():
        yield f"default_hooks.{name}", hook, HOOKS
    for name in ("val_evaluator", "test_evaluator"):
        evaluator = cfg.get(name)
        if isinstance(evaluator, Mapping) and "metrics" in evaluator:  # as MMEngine tells evaluators from metrics
            yield name, {"type": "Evaluator", **evaluator}, EVALUATOR
            yield f"{name}.metrics", evaluator["metrics"], METRICS
        else:
            yield name, evaluator, METRICS
    yield "train_cfg", cfg.get("train_cfg"), LOOPS
    yield "visualizer", cfg.get("visualizer"), VISUALIZERS


# Read by the code that builds a section, not by the class that it names.
_EXTRA_KEYS = {
    "optim_wrapper": {"constructor", "paramwise_cfg", "optimizer", "accumulative_counts", "clip_grad"},
    "custom_hooks": {"priority"},
    "default_hooks": {"priority"},
    "param_scheduler": {"convert_to_iter_based", "by_epoch", "begin", "end", "last_step", "verbose"},
    "train_cfg": {"by_epoch"},
}


def _check_section(where: str, section: Any, registry: Registry, extra: AbstractSet[str] = frozenset()) -> None:
    if isinstance(section, (list, tuple)):
        for number, item in enumerate(section):
            _check_section(f"{where}[{number}]", item, registry)
        return
    if not isinstance(section, Mapping) or "type" not in section:
        return
    kind = section["type"]
    target, names = _registered(registry, kind) if isinstance(kind, str) else (kind, set())
    if target is None:
        if "." in str(kind):  # a name in another package's scope
            return
        raise ConfigError(f"{where}.type={kind!r} is not registered; closest: {closest(str(kind), names)}")
    known = _accepted_keys(target)
    if known is None:
        return
    known |= {"type", "_scope_"} | extra | _EXTRA_KEYS.get(where.split(".")[0].split("[")[0], set())
    for key in section:
        if key not in known:
            raise ConfigError(f"unknown key {key!r} in {where} ({_name(kind)}); closest: {closest(key, known)}")
    if where.startswith("model"):  # models check theirs, but not before they compute with the numbers of these
        for key in _COUNTS & section.keys():
            if isinstance(section[key], str):
                raise ConfigError(f"{where}.{key} must be a whole number, got {section[key]!r}")
    else:
        _check_numbers(where, section, target)


_COUNTS = frozenset(("num_classes", "in_chans", "num_keypoints", "num_frames"))
_NUMBERS = {"int", "float", "Number", "numbers", "None", "NoneType", "Optional", "Union", "typing"}


def _check_numbers(where: str, section: Mapping[str, Any], target: Any) -> None:
    """Refuse words where a class, or a base that its `**kwargs` go to, asks for a number: most fail at first use."""
    for parameter in _parameters(target):
        name, asked = parameter.name, parameter.annotation
        words = set(re.findall(r"\w+", asked.__name__ if isinstance(asked, type) else str(asked)))
        usual = isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool)
        of_a_number = (words <= _NUMBERS and words & {"int", "float", "Number"}) or (usual and "str" not in words)
        if isinstance(section.get(name), str) and of_a_number:
            top, dot, below = where.partition(".")
            raise ConfigError(
                f"{top} cannot be built from the config: {below}{dot}{name} must be a number, got {section[name]!r}"
            )


def _registered(registry: Registry, name: str) -> tuple[Any, set[str]]:
    """The class that a name stands for in the present scope, and all names there."""
    with registry.switch_scope_and_registry(None) as own:
        return own.get(name), set(own.module_dict) | set(registry.module_dict) | offered_names(registry)


def _accepted_keys(target: Any) -> set[str] | None:
    """Argument names of a class or function; None if anything goes."""
    parameters = _parameters(target)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    names = {p.name for p in parameters if p.kind is not p.VAR_POSITIONAL}
    return names - {"self", "runner", "dataloader"} if inspect.isclass(target) else names


def _parameters(target: Any) -> list[inspect.Parameter]:
    """Of a class or function, through the base classes that `**kwargs` go to; with `**kwargs` if they go nowhere."""
    if not inspect.isclass(target):
        return list(inspect.signature(target).parameters.values())
    found: list[inspect.Parameter] = []
    anything = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
    for base in target.__mro__:
        if "__init__" not in vars(base):
            continue
        try:
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        except (TypeError, ValueError):
            break
        found += [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return found
    return [*found, anything]


def _name(kind: Any) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def complete_config(cfg: Any) -> None:
    """Fill in, in place, what a configuration leaves to its data, if its tasks know how.

    Raises:
        DatasetError: the data are missing.
    """
    for task in use_tasks(cfg):
        if task.completes is not None:
            located(task.completes)(cfg)


def check_data(cfg: Mapping[str, Any], loaders: tuple[str, ...] = _LOADERS) -> None:
    """Ask every data set of the configuration whether its files are there.

    Data sets answer through a function `check_available(**config)` of their class (or of the registered function);
    for others, `data_root` is looked at.

    Raises:
        DatasetError: a data set is missing or incomplete; says where was looked and what to do.
    """
    use_tasks(cfg)
    scope = SCOPES.get(cfg.get("default_scope") or "")
    checked: list[Any] = []
    for name in loaders:
        loader = cfg.get(name)
        dataset = loader.get("dataset") if isinstance(loader, Mapping) else None
        if not isinstance(dataset, Mapping):
            continue
        kind = dataset.get("type")
        target = DATASETS.get(kind) if isinstance(kind, str) else kind
        check = getattr(target, "check_available", None)
        try:
            if check is not None:
                check(**{key: value for key, value in dataset.items() if key != "type"})
            else:
                _check_root(dataset)
                if scope is not None and dataset not in checked:
                    scope.check_data(dataset)
                    checked.append(dataset)
        except DatasetError as error:
            raise type(error)(f"{name}: {error}") from error


def _check_root(dataset: Mapping[str, Any]) -> None:
    root = dataset.get("data_root")
    if isinstance(root, str) and root and "://" not in root and not Path(root).expanduser().exists():
        raise DatasetError(
            f"data set not found: looked for the folder {str(Path(root).absolute())!r} (data_root of "
            f"{_name(dataset.get('type'))}). Put the data there, or point to it with --cfg-options "
            "…_dataloader.dataset.data_root=DIR"
        )
    _check_parts(dataset, Path(root or "").expanduser())


def _check_parts(dataset: Mapping[str, Any], root: Path) -> None:
    """Look for the annotation file and the folders that a data set names."""
    prefixes = dataset.get("data_prefix")
    named = [dataset.get("ann_file"), *(prefixes.values() if isinstance(prefixes, Mapping) else ())]
    for part in named:
        if isinstance(part, str) and part and "://" not in f"{root}{part}" and not (root / part).exists():
            raise DatasetError(
                f"data set not found: looked for {str((root / part).absolute())!r} (of {_name(dataset.get('type'))}). "
                "Put the data there, or name other places with --cfg-options …_dataloader.dataset.data_root=DIR, "
                "….ann_file=FILE or ….data_prefix"
            )

"""Building networks from what a checkpoint says of them, though the file may come from anybody.

Only plain values of expected fields are used; names are looked up among registered models; weights are never fetched;
and nothing becomes larger than the weights that the file holds. Needs no package of the train extra.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import timm
import torch
from timm.models import model_entrypoint
from timm.models._builder import build_model_with_cfg
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

import visionssm.backbones  # noqa: F401  registers the models
from visionssm.checkpoints import CheckpointError
from visionssm.engine.checkpoint import check_shapes, load_strictly

ModelT = TypeVar("ModelT", bound=nn.Module)

PREFIX = "model."
"""Of a network's weights in a checkpoint of training, where they are a part of what MMEngine trains."""

_MOST_DEPTH, _MOST_ITEMS, _LONGEST, _LARGEST = 5, 4096, 256, 2**24
_MOST_IN_BUFFERS = 2**24  # tables of indices, which checkpoints do not hold

# What timm's factory does with a model before and after it is built: fetching, loading, cutting.
_OF_THE_FACTORY = {
    name for make in (timm.create_model, build_model_with_cfg) for name in inspect.signature(make).parameters
} | {"features_only", "out_indices", "feature_cls", "pruned", "kwargs"}


def description_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """`meta["visionssm"]` of a checkpoint, empty if it has none.

    Raises:
        CheckpointError: it is no dictionary of plain values of a reasonable size.
    """
    meta = checkpoint.get("meta")
    about = meta.get("visionssm") if isinstance(meta, Mapping) else None
    if about is None:
        return {}
    if not isinstance(about, Mapping):
        raise CheckpointError(f"the checkpoint's description, meta['visionssm'], is a {type(about).__name__}")
    return dict(about)


def fields_of(about: Mapping[str, Any], key: str, allowed: Iterable[str]) -> dict[str, Any]:
    """The plain values of one part of a description.

    Args:
        about: the description.
        key: of the part, a dictionary; without it nothing is known.
        allowed: names of its fields.
    Raises:
        CheckpointError: another field is in it, or a value is not plain, or too large.
    """
    part = about.get(key)
    if not isinstance(part, Mapping):
        raise CheckpointError(f"the checkpoint does not describe its {key} (no meta['visionssm'][{key!r}])")
    check_fields(part, allowed, key)
    return dict(part)


def arguments_of(fields: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A field that holds arguments by name; empty if it is not there.

    Raises:
        CheckpointError: it holds something else.
    """
    value = fields.get(key) or {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"the checkpoint's description has no arguments by name in {key}, but {value!r:.60}")
    return dict(value)


def check_fields(part: Mapping[str, Any], allowed: Iterable[str], key: str) -> None:
    """Refuse fields that are not allowed and values that are not plain.

    Raises:
        CheckpointError: naming the field.
    """
    known = set(allowed)
    for name, value in part.items():
        if name not in known:
            raise CheckpointError(
                f"the checkpoint's description has the field {name!r} in {key}, which is not read from a file; allowed "
                f"are {', '.join(sorted(known))}"
            )
        if not is_plain(value):
            raise CheckpointError(f"the checkpoint's description has an unusable value in {key}.{name}")


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether it is a number, a short text, nothing, or a small nest of lists and dictionaries of these."""
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, (int, float)):
        return math.isfinite(value) and abs(value) <= _LARGEST
    if isinstance(value, str):
        return len(value) <= _LONGEST
    if depth >= _MOST_DEPTH or not isinstance(value, (list, tuple, Mapping)) or len(value) > _MOST_ITEMS:
        return False
    items = value.values() if isinstance(value, Mapping) else value
    keys = value if isinstance(value, Mapping) else ()
    return all(isinstance(key, (str, int)) for key in keys) and all(is_plain(item, depth + 1) for item in items)


def class_names_of(about: Mapping[str, Any], count: int | None) -> list[str]:
    """Class names that a description gives, "class 0", … if it gives none.

    Args:
        about: the description.
        count: classes of the model; None if only the description says.
    Raises:
        CheckpointError: they are no list of printable texts, or not as many.
    """
    names = about.get("classes")
    if not names and count is not None:
        return [f"class {number}" for number in range(count)]
    if not isinstance(names, (list, tuple)) or not all(_is_name(name) for name in names):
        raise CheckpointError("the checkpoint's description has classes that are no list of short, printable names")
    if count is not None and len(names) != count:
        raise CheckpointError(f"the checkpoint's description names {len(names)} classes, but its model has {count}")
    return list(names)


def _is_name(value: Any) -> bool:
    """Whether a text may be shown on a terminal."""
    return isinstance(value, str) and len(value) <= 4 * _LONGEST and not re.search(r"[\x00-\x1f\x7f-\x9f]", value)


def check_numbers(value: Any, where: str, *, count: int, low: float, high: float) -> None:
    """Refuse what is not a list of so many numbers within limits.

    Raises:
        CheckpointError: naming the place.
    """
    listed = value if isinstance(value, (list, tuple)) else ()
    if len(listed) != count or not all(type(x) in (int, float) and low <= x <= high for x in listed):
        raise CheckpointError(
            f"the checkpoint's description has an unusable {where}: {count} numbers from {low:g} to {high:g} are needed"
        )


def check_model(name: Any, arguments: Mapping[str, Any]) -> None:
    """Look whether a file may ask for this model: a registered name, and arguments of the model's own class.

    Raises:
        CheckpointError: the name is not registered, or an argument is none of the model's, as those that fetch or load.
    """
    if not isinstance(name, str) or ":" in name or not timm.is_model(name):
        raise CheckpointError(f"the checkpoint is of a model {name!r}, which is not registered")
    module = sys.modules[model_entrypoint(name).__module__]
    classes = [x for x in vars(module).values() if inspect.isclass(x) and issubclass(x, nn.Module)]
    known = {parameter for kind in classes for parameter in inspect.signature(kind.__init__).parameters}
    check_fields(arguments, known - _OF_THE_FACTORY - {"self"}, f"the arguments of {name}")


def rebuilt(build: Callable[[], ModelT], checkpoint: Mapping[str, Any], name: str, prefix: str = PREFIX) -> ModelT:
    """A network with the weights of a checkpoint, in evaluation mode.

    Args:
        build: makes the network, without fetching anything.
        checkpoint: as `read_checkpoint` returned it.
        name: of the network, for messages.
        prefix: of the keys of its weights; others are left out.
    Raises:
        CheckpointError: the description cannot be built, or the weights do not fit it.
    """
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"the checkpoint of {name} holds no 'state_dict' of named weights")
    weights = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
    try:
        with at_most(2 * sum(x.numel() for x in weights.values() if isinstance(x, Tensor)) + 2**20):
            with torch.device("meta"):  # an outline, without memory, is compared first
                outline = build()
            check_shapes(outline, weights, name)
            model = build()
    except CheckpointError:
        raise
    except Exception as error:  # from values that the model does not expect
        raise CheckpointError(
            f"the checkpoint's description of {name:.80} cannot be built ({type(error).__name__}: {error!s:.500})"
        ) from error
    load_strictly(model, weights, name)
    return model.eval()


@contextmanager
def at_most(numbers: int) -> Iterator[None]:
    """Stop the building of modules whose parameters are more numbers than this, before they are filled.

    Raises:
        CheckpointError: it would be more.
    """
    totals: dict[tuple[int, bool], int] = {}  # outlines count by themselves

    def count(limit: int, module: nn.Module, name: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            return
        kind = limit, value.is_meta
        totals[kind] = totals.get(kind, 0) + value.numel()
        if totals[kind] > limit:
            raise CheckpointError("the checkpoint's description is of a model that is larger than its weights")

    handles = (
        register_module_parameter_registration_hook(partial(count, numbers)),
        register_module_buffer_registration_hook(partial(count, numbers + _MOST_IN_BUFFERS)),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

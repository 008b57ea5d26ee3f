"""What a network must cost on a CPU: its heavy operators one by one, in the fastest forms that there are.

Every matrix product and convolution is measured alone, its operands in the cache, in each form that PyTorch has for it
(MKL's and oneDNN's products, either memory format); scans, deformable sums and attention as they are called; norms, and
the maps between all these, at the speed of a copy. Nothing else is counted: no activation, no gate, no Python.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from visionssm.benchmarks.choices import PAIRS
from visionssm.benchmarks.flops import create_for_size
from visionssm.benchmarks.timing import CLOCKS, Clock, medians_in_turn, progress

PRODUCTS, DENSE, DEPTHWISE = "matrix products", "dense convolutions", "depth-wise convolutions"
SCANS, SUMS, ATTENTION, MOVED = "scans", "deformable sums", "attention", "maps and norms"
KINDS = (PRODUCTS, DENSE, DEPTHWISE, SCANS, SUMS, ATTENTION, MOVED)
_LIBRARY = {
    "mm": PRODUCTS,
    "addmm": PRODUCTS,
    "bmm": PRODUCTS,
    "convolution": DENSE,  # or another, by its groups and kernel
    "_scaled_dot_product_flash_attention_for_cpu": ATTENTION,
}
_NORMS = ("native_layer_norm", "_fused_rms_norm")
_COPIED = 1 << 16  # floats, which stay in a second-level cache
_MOST_CALLS = 50

Row = dict[str, Any]
Key = tuple[str, Any]


@dataclass(frozen=True)
class _Call:
    operator: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def __call__(self) -> Any:
        return self.operator(*self.arguments, **self.options)


class _Collector(TorchDispatchMode):
    """Counts the calls of heavy operators, those of equal shapes, strides and options as one, and keeps the first."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Key] = Counter()
        self.first: dict[Key, _Call] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = _Call(func, args, kwargs or {})
        name = _name(func)
        if name in _LIBRARY or name in _NORMS or func.namespace == "visionssm":
            key = (name, _signature(args))
            self.counts[key] += 1
            self.first.setdefault(key, call)
        return call()


def _name(operator: Any) -> str:
    """`addmm` of `aten::addmm.default`."""
    return str(operator.name()).rpartition("::")[2].partition(".")[0]


def _signature(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (*value.shape, *value.stride())
    return tuple(map(_signature, value)) if isinstance(value, (list, tuple)) else value


def collect(model: Callable[[Tensor], object], images: Tensor) -> list[tuple[str, _Call, int]]:
    """The heavy operators of a forward pass: name, call and how often.

    While calls are seen no compiled pass runs of which PyTorch does not know, so these are PyTorch's operators.
    """
    with torch.no_grad(), _Collector() as seen:
        model(images)
    return [(key[0], seen.first[key], count) for key, count in seen.counts.items()]


def forms(name: str, call: _Call) -> tuple[str, dict[str, Callable[[], object]]]:
    """The kind of a call that is no norm, and the forms in which the same can be computed."""
    as_called: dict[str, Callable[[], object]] = {"as called": call}
    if name == "convolution":
        return _convolution(call)
    if name in ("mm", "addmm"):
        *bias, x, weight = call.arguments[:3] if name == "addmm" else call.arguments
        return PRODUCTS, _products(x, weight.t(), bias[0] if bias else None)
    return _LIBRARY.get(name, SUMS if name == "deformable_sum" else SCANS), as_called


def _products(x: Tensor, weight: Tensor, bias: Tensor | None) -> dict[str, Callable[[], object]]:
    x, weight = x.contiguous(), weight.contiguous()
    found: dict[str, Callable[[], object]] = {"linear": partial(F.linear, x, weight, bias)}
    if torch.backends.mkldnn.is_available():
        found["oneDNN"] = partial(torch.ops.mkldnn._linear_pointwise.default, x, weight, bias, "none", (), "")
    return found


def _convolution(call: _Call) -> tuple[str, dict[str, Callable[[], object]]]:
    x, weight, bias, stride, *_ = call.arguments
    groups = call.arguments[8]
    found: dict[str, Callable[[], object]] = {"as called": call}
    formats = (torch.contiguous_format, torch.channels_last) if x.ndim == 4 else (torch.contiguous_format,)
    for layout in formats:
        moved = (x.contiguous(memory_format=layout), *call.arguments[1:])
        found[str(layout)] = partial(call.operator, *moved, **call.options)
    if groups > 1:
        return DEPTHWISE, found
    if {*weight.shape[2:], *stride} == {1}:
        pixels = x.movedim(1, -1).reshape(-1, x.shape[1])
        return PRODUCTS, {**found, **_products(pixels, weight.flatten(1), bias)}
    return DENSE, found


def least(run: Callable[[], object], *, seconds: float, clock: Clock) -> float:
    """Seconds of the fastest of some calls, after one that does not count."""
    run()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < _MOST_CALLS):
        began = clock()
        run()
        times.append(clock() - began)
    return min(times)


@torch.no_grad()
def bound(name: str, size: int, *, seconds: float, clock: Clock) -> dict[str, float]:
    """Seconds of one image by kind of operator.

    Args:
        name: registered variant or timm model.
        size: side of the image.
        seconds: for each form of each operator.
        clock: see `CLOCKS`.
    """
    source = torch.rand(_COPIED)
    target = torch.empty_like(source)
    of_float = least(partial(target.copy_, source), seconds=seconds, clock=clock) / _COPIED
    found = dict.fromkeys(KINDS, 0.0)
    for operator, call, count in collect(create_for_size(name, size), torch.rand(1, 3, size, size)):
        result = call()
        written = (result[0] if isinstance(result, (tuple, list)) else result).numel()
        if operator in _NORMS:
            found[MOVED] += count * written * of_float
            continue
        kind, ways = forms(operator, call)
        found[kind] += count * min(least(way, seconds=seconds, clock=clock) for way in ways.values())
        # A copy reads and writes: what is read of one map and written of another is half of a copy each.
        read = call.arguments[1 if operator == "addmm" else 0].numel()
        found[MOVED] += count * (read + written) / 2 * of_float
    return found


def row(name: str, peer: str | None, found: Mapping[str, float], whole: float) -> Row:
    """Milliseconds of a network by kind, their sum and the whole; `run` adds what they are of the peer's."""
    total = sum(found.values())
    return {
        "network": name,
        "peer": peer,
        **{kind: 1e3 * found[kind] if found[kind] else None for kind in KINDS},
        "sum ms": 1e3 * total,
        "whole ms": 1e3 * whole,
        "sum / peer's": None,
        "whole / peer's": None,
        "whole / sum": whole / total,
    }


def run(
    pairs: Mapping[str, str] = PAIRS,
    *,
    size: int = 224,
    seconds: float = 3.0,
    clock: str = "wall",
    done: Sequence[Row] = (),
    keep: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """A row for every network and every peer, peers first.

    Args:
        pairs: models, and the timm model that each is put beside.
        size: side of the image.
        seconds: for a pair in turn; an operator has a fiftieth.
        clock: one of `CLOCKS`.
        done: rows of a run that was cut off; the networks in them are not measured again.
        keep: called with the rows so far after every network.
    """
    rows = {one["network"]: one for one in done}
    for name in (*dict.fromkeys(pairs.values()), *pairs):
        if name in rows:
            continue
        peer = pairs.get(name)
        progress(f"{name}: operators alone, and the whole{f' beside {peer}' if peer else ''} …")
        networks = [x for x in (name, peer) if x]
        models = {x: create_for_size(x, size) for x in networks}
        runs = {x: partial(_infer, model, torch.rand(1, 3, size, size)) for x, model in models.items()}
        whole = medians_in_turn(runs, seconds=seconds, clock=CLOCKS[clock])
        found = bound(name, size, seconds=seconds / 50, clock=CLOCKS[clock])
        rows[name] = row(name, peer, found, whole[name])
        if peer:
            beside = {"sum / peer's": rows[name]["sum ms"] / rows[peer]["sum ms"]}
            rows[name] |= {**beside, "whole / peer's": whole[name] / whole[peer]}
        keep(list(rows.values()))
    return list(rows.values())


@torch.inference_mode()
def _infer(model: Callable[[Tensor], object], images: Tensor) -> None:
    model(images)

"""Reading of the numerical cases in tests/reference: weights, inputs and expected values from the authors' code.

Where the environment variable VISIONSSM_REFERENCE_CASES names a folder of the same layout, `family/name.json`, the
cases are read from there, and exactly those that lie there are tested. `KINDS` says which test takes which file;
`tests/test_reference_cases.py` checks that every file is taken.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.kinks import FollowKinks, RecordKinks
from tests.reference.fill import fill_tensor, make_input, sample_indices, uniform

RECORDED = Path(__file__).parent / "reference"
# What cases are of, by "family/name": the first that matches. Whatever is left is a classifier under its model's name.
KINDS = {
    "arrow pointing": r"plstm/arrow_pointing.*",
    "ConvS5 discretization": r"convs5/convs5_discretize.*",
    "ConvS5 poles": r"convs5/convs5_init.*",
    "ConvS5 layer": r"convs5/convs5_layer_.*",
    "ConvS5 scan": r"convs5/convs5_scan_.*",
    "ConvS5 model": r"convs5/.*",
    "DCNv4": r"hrvmamba/dcnv4_.*",
    "HRVMamba for poses": r"hrvmamba/.*_pose(_grad)?",
    "HRVMamba for segmentation": r"hrvmamba/.*_seg",
    "distillation loss": r".*_distill_loss",
    "pLSTM operator": r"plstm/plstm_op4?_.*",
    "pLSTM part": r"plstm/plstm_(layer|block|vision_block)_.*",
    "LocalMamba routes": r"localmamba/routes",
    "LocalMamba": r"localmamba/.*",
    "LION anchor head": r"lion/head_anchor",
    "LION backbone": r"lion/backbone_.*",
    "LION block": r"lion/block_.*",
    "LION centre head": r"lion/head_center_.*",
    "LION detector": r"lion/kitti_.*",
    "LION layer": r"lion/layer_.*",
    "LION map network": r"lion/bev_.*",
    "LION merging": r"lion/(merge|voxelgen)_.*",
    "LION operator": r"lion/operator_.*",
    "LION partition": r"lion/partition_.*",
    "LION query head": r"lion/head_transfusion",
    "LION state": r"lion/state_.*",
    "LION voxel features": r"lion/vfe_.*",
    "IoU of rotated boxes": r"lion/rotated_iou",
    "MHS-VM": r"mhsvm/.*",
    "Mamba-YOLO": r"mambayolo/.*",
    "MambaIR": r"mambair/.*",
    "PlainMamba routes": r"plainmamba/routes",
    "PlainMamba": r"plainmamba/.*",
    "SegMamba": r"segmamba/.*",
    "Spatial-Mamba for dense tasks": r"spatialmamba/.*_backbone",
    "Swin-UMamba": r"swinumamba/.*",
    "timm's EfficientViM": r"efficientvim/.*",
    "U-Mamba": r"umamba/.*",
    "VM-UNet": r"vmunet/.*",
    "VideoMamba": r"videomamba/.*",
    "Vim": r"vim/.*",
    "classifier": r".*",
}
LARGE = 40e6  # parameters of a model that takes a minute
# Entries that cases leave as their constructor makes them.
CONSTRUCTED = {"num_batches_tracked": 0, "state_fusion.alpha": 1.0}

GRADIENT_TOLERANCE = 1e-4
# Of the recorded gradient norms against float64, the root of the mean square over the parameters of one kind.
RECORDED_NOISE = 5e-4
# Families whose recorded norms were summed up in float64. The others have PyTorch's float32 norm, which is itself off
# by up to 3e-4 for a large matrix.
EXACT_NORMS = ("mambavision",)
# What rounding may move in float32 in these networks: a sampling position by so many pixels, a ReLU's input by so much
# of the largest one. Farther from its kink no decision may differ, neither ours in float32 nor one that a case pins.
NEAR_A_KINK = 1e-4
# LayerNorm takes the scale out again but for its eps: of a sum of a million terms nothing is left but the rounding.
CANCELLING = (r"\.skip_scale$", 1e-3)


def _folder() -> Path:
    chosen = os.environ.get("VISIONSSM_REFERENCE_CASES")
    if not chosen:
        return RECORDED
    if not Path(chosen).is_dir():  # other cases than those asked for would pass in their place
        raise NotADirectoryError(f"VISIONSSM_REFERENCE_CASES={chosen!r} is no folder; unset it to test {RECORDED}")
    return Path(chosen).resolve()


FOLDER = _folder()


@dataclass(frozen=True)
class Case:
    """One case of the authors' code on a CPU in float32."""

    path: Path

    @cached_property
    def data(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @property
    def seed(self) -> int:
        return self.data["seed"]

    @property
    def meta(self) -> dict[str, Any]:
        return self.data.get("meta", {})

    @property
    def kind(self) -> str:
        """Which of `KINDS` it is."""
        name = f"{self.path.parent.name}/{self.path.stem}"
        return next(kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, name))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the case's weights, under the authors' names."""
        constructed, skipped = tuple(CONSTRUCTED), set(self.data["not_filled"])
        given = self.data["state"].items()
        shapes = {name: tuple(x) for name, x in given if name not in skipped or name.endswith(constructed)}
        return shapes | {name: shapes[source] for name, source in self.meta.get("tied_keys", {}).items()}

    def tagged(self, numbers: Mapping[str, int]) -> dict[str, Tensor]:
        """Tensors in the place of the weights that hold these numbers, or zeros."""
        return {name: torch.full(shape, float(numbers.get(name, 0))) for name, shape in self.shapes().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The case's weights under the authors' names."""
        skipped = set(self.data["not_filled"])
        adjust = self.data.get("fill_adjust") or self.meta.get("fill_adjust") or []
        state = {}
        for name, shape in self.shapes().items():
            if name in skipped:
                state[name] = torch.full(shape, next(v for suffix, v in CONSTRUCTED.items() if name.endswith(suffix)))
                continue
            value = fill_tensor(self.seed, name, shape)
            for suffix, factor in self.meta.get("fill_scale", {}).items():
                if name.endswith(suffix):
                    value = value * np.float32(factor)
            for pattern, factor in adjust:
                if re.search(pattern, name):
                    value = value * np.float32(factor)
            state[name] = torch.from_numpy(np.ascontiguousarray(value))
        for name, source in self.meta.get("tied_keys", {}).items():  # two names of one tensor: the second counts
            state[name] = state[source]
        return state

    @cached_property
    def kinks(self) -> dict[int, list[list[int]]]:
        """Decisions at kinks that the recorded run took the other way than float64 (see `tests.kinks`)."""
        folder = self.path.parents[1]
        recorded = RECORDED / self.path.relative_to(folder)
        if recorded.exists() and recorded.read_bytes() == self.path.read_bytes():
            folder = RECORDED  # a copy of the case: what is known of it holds
        path = folder / f"{self.path.stem}_kinks.json"
        return {int(k): v for k, v in json.loads(path.read_text()).items()} if path.exists() else {}

    def image(self) -> Tensor:
        return torch.from_numpy(make_input(self.seed, tuple(self.data["input"]["shape"])))

    def cotangent(self, output: Tensor) -> Tensor:
        """The fixed weights of the scalar whose gradients the case records."""
        return torch.from_numpy(2 * uniform(self.seed, "cotangent", tuple(output.shape)) - 1).to(output.dtype)

    def relative_error(self, name: str, actual: Tensor) -> float:
        """Largest difference to the recorded output, relative to the largest recorded value."""
        expected = self.data["outputs"][name]
        assert list(actual.shape) == expected["shape"], name
        flat = actual.detach().to(torch.float64).contiguous().flatten().numpy()
        if "values" in expected:
            reference = np.asarray(expected["values"], dtype=np.float64).flatten()
            scale = np.abs(reference).max()
        else:
            flat_index = sample_indices(self.seed, flat.size)
            statistics = np.array([flat.mean(), flat.std(), np.abs(flat).max()])
            recorded = np.array([expected["mean"], expected["std"], expected["absmax"]])
            scale = expected["absmax"]
            assert np.abs(statistics - recorded).max() <= 1e-4 * scale, f"{name}: statistics differ"
            flat, reference = flat[flat_index], np.asarray(expected["samples"], dtype=np.float64)
        return float(np.abs(flat - reference).max() / scale)


def recorded_case(family: str, name: str) -> Case:
    """One case of tests/reference, wherever the tested ones lie: for tests that need an authors' file."""
    return Case(RECORDED / family / f"{name}.json")


def find_cases(kind: str) -> list[Case]:
    """Every case of one of `KINDS`, in the order of the files."""
    assert kind in KINDS, kind
    return [case for case in all_cases() if case.kind == kind]


def all_cases() -> list[Case]:
    """Every case, in the order of the files."""
    return [Case(path) for path in sorted(FOLDER.glob("*/*.json"))]


def every_case(kind: str, *, slow: str = "(?!)") -> pytest.MarkDecorator:
    """Run a test with each `case` of a kind.

    Args:
        kind: one of `KINDS`.
        slow: pattern of the names of heavy cases; those of more than `LARGE` parameters are heavy anyway.
    """

    def parameter(case: Case) -> Any:
        heavy = re.search(slow, case.path.stem) or case.data.get("n_params", 0) > LARGE
        return pytest.param(case, id=case.path.stem, marks=[pytest.mark.slow] if heavy else [])

    return pytest.mark.parametrize("case", [parameter(case) for case in find_cases(kind)])


class Unset(TorchFunctionMode):
    """Models that are built within this context start at NaN instead of random numbers, which take long to draw."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.uniform_, Tensor.normal_):
            return args[0].fill_(torch.nan)
        if func is Tensor.erfinv_:  # the next step of a truncated normal distribution
            return args[0]
        return func(*args, **(kwargs or {}))


def gradient_norms(
    case: Case, model: nn.Module, filter_fn: Any, recorded: str = "grad_norms"
) -> dict[str, tuple[float, float]]:
    """(ours, recorded) gradient norms a group of parameters, after `model`'s backward pass.

    The key map is read off by sending tensors through it that hold the number of their authors' parameter; parameters
    that the map splits or merges form one group, whose norm is the root of the sum of squares. Norms are taken as in
    the recording, in float32 or as `EXACT_NORMS` says. `recorded` is the case's entry with the norms.
    """
    names = [name for name, norm in case.data[recorded].items() if norm is not None]  # None: of an unused head
    numbers = {name: i + 1 for i, name in enumerate(names)}
    for name, source in case.meta.get("tied_keys", {}).items():
        known = numbers.get(name, numbers.get(source))
        if known is not None:
            numbers[name] = numbers[source] = known
    mapped = filter_fn(case.tagged(numbers), model)

    group_of = {i + 1: i + 1 for i in range(len(names))}

    def root(i: int) -> int:
        while group_of[i] != i:
            i = group_of[i]
        return i

    sources: dict[str, list[int]] = {}
    for ours, _ in model.named_parameters():
        sources[ours] = [int(i) for i in _values(mapped[ours]) if i > 0]
        for other in sources[ours][1:]:
            group_of[root(other)] = root(sources[ours][0])

    squares: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for ours, parameter in model.named_parameters():
        if sources[ours]:
            gradient = parameter.grad
            assert gradient is not None, f"no gradient reaches {ours}"
            if case.path.parent.name in EXACT_NORMS:
                gradient = gradient.double()
            squares[root(sources[ours][0])][0] += float(gradient.norm()) ** 2
    for i, name in enumerate(names):
        squares[root(i + 1)][1] += case.data[recorded][name] ** 2
    return {names[i - 1]: (actual**0.5, expected**0.5) for i, (actual, expected) in squares.items()}


def _values(x: Tensor) -> list[float]:
    """The different values of a tensor, most of which hold a single one."""
    least, largest = (float(end) for end in x.aminmax())
    return [least] if least == largest else x.unique().tolist()


def norms_of_backward(
    case: Case,
    model: nn.Module,
    filter_fn: Any,
    dtype: torch.dtype,
    mode: RecordKinks | FollowKinks,
    *,
    output: Callable[[nn.Module, Tensor], Tensor] = lambda model, image: model(image),
) -> dict[str, tuple[float, float]]:
    """`gradient_norms` of the case's scalar, by `model` or a copy in `dtype`; `mode` watches the forward pass."""
    model.zero_grad()
    used = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
    with mode:
        y = output(used, case.image().to(dtype))
    (y * case.cotangent(y)).sum().backward()
    return gradient_norms(case, used, filter_fn)


def check_gradients(
    case: Case,
    model: nn.Module,
    filter_fn: Any,
    *,
    output: Callable[[nn.Module, Tensor], Tensor] = lambda model, image: model(image),
) -> None:
    """Gradient norms in float32 are those recorded, to 1e-4.

    Where they are not, it must be the rounding of float32. Then our model in float64, which tells what is true, must
    give the recorded norms to within the noise that the recording is known to have; and our float32, where it decides
    ReLUs and sampling positions that are at a kink to within rounding as float64 does (see `tests.kinks`; farther from
    a kink both must decide alike), must be as near to the truth as the recorded float32: errors of one kind of
    parameter, over all blocks, are compared by the root of their mean square, since each is one draw of a random
    number.

    Args:
        case: with `grad_norms`; names that the model does not have, such as those of another head, must be taken out.
        model: in float32, with the case's weights.
        filter_fn: the family's `checkpoint_filter_fn`.
        output: what the case's cotangent belongs to.
    """

    def norms(dtype: torch.dtype, mode: Any) -> dict[str, tuple[float, float]]:
        return norms_of_backward(case, model, filter_fn, dtype, mode, output=output)

    own = RecordKinks()
    single = norms(torch.float32, own)
    assert single
    if all(relative_gradient_error(ours, recorded) <= GRADIENT_TOLERANCE for ours, recorded in single.values()):
        return
    kinks = RecordKinks()
    double = norms(torch.float64, kinks)
    disagreement = kinks.disagreement(own)
    assert disagreement <= NEAR_A_KINK, f"float32 decides otherwise {disagreement:.1e} away from a kink"
    single = norms(torch.float32, FollowKinks(kinks.decisions))
    as_recorded = double
    if case.kinks:
        as_recorded = norms(torch.float64, FollowKinks(kinks.switched(case.kinks, near=NEAR_A_KINK)))
    ours = _by_kind({name: relative_gradient_error(single[name][0], truth) for name, (truth, _) in double.items()})
    recorded = _by_kind({name: relative_gradient_error(value, truth) for name, (truth, value) in as_recorded.items()})
    for kind, error in ours.items():
        noise = CANCELLING[1] if re.search(CANCELLING[0], kind) else RECORDED_NOISE
        assert recorded[kind] <= noise, f"{kind}: the recorded gradients are off by {recorded[kind]:.1e} of float64's"
        allowed = GRADIENT_TOLERANCE + 2 * recorded[kind]
        assert error <= allowed, f"{kind}: float32 is off by {error:.1e}, the recorded float32 by {recorded[kind]:.1e}"


def relative_gradient_error(actual: float, expected: float) -> float:
    """Difference of two gradient norms, relative to the expected one; norms under 0.01 count as 0.01."""
    return abs(actual - expected) / max(expected, 1e-2)


def _by_kind(errors: dict[str, float]) -> dict[str, float]:
    """Root of the mean square over the parameters whose names differ in numbers only."""
    kinds: dict[str, list[float]] = defaultdict(list)
    for name, error in errors.items():
        kinds[re.sub(r"\d+", "N", name)].append(error)
    return {kind: float(np.sqrt(np.mean(np.square(values)))) for kind, values in kinds.items()}

"""What records a model as a graph, beside `torch.compile` and `torch.export`, for every family.

docs/export.md has the table of what works.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

import visionssm
from visionssm.layers.leaf import leaf_function, leaf_module

NAMES = visionssm.list_models("*_nano_test")
LEVELS_ARE_MODULES = [name for name in NAMES if not name.startswith("hrvmamba")]


def _slow_if_large(name: str) -> Any:
    """TorchScript takes many seconds for graphs of thousands of operators."""
    return pytest.param(name, marks=pytest.mark.slow) if name.startswith(("hrvmamba", "plstm")) else name


every_family = pytest.mark.parametrize("name", NAMES)


def _model(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def _image(batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@every_family
@torch.no_grad()
def test_symbolic_trace_is_right_at_any_size(name: str) -> None:
    model = _model(name)
    graph = torch.fx.symbolic_trace(model)
    for image in (_image(), _image(1, 96, 64), _image(3, 65, 47)):
        torch.testing.assert_close(graph(image), model(image))


@pytest.mark.parametrize("name", LEVELS_ARE_MODULES)
@torch.no_grad()
def test_torchvisions_feature_extractor_takes_the_module_of_a_level(name: str) -> None:
    model = _model(name)
    node = model.feature_info[1]["module"]
    actual = create_feature_extractor(model, {node: "maps"})(_image())["maps"]
    _compare(actual, model.forward_intermediates(_image(), [1], intermediates_only=True)[0], model)


def _compare(actual: Tensor, expected: Tensor, model: Any) -> None:
    """A map in NHWC, or tokens with a class token, to a map in NCHW."""
    if actual.ndim == 3:
        actual = model.patch_tokens(actual).unflatten(1, expected.shape[2:])
    torch.testing.assert_close(actual.permute(0, 3, 1, 2), expected)


@every_family
@torch.no_grad()
def test_prepare_fx_observes_the_model_and_changes_no_output(name: str) -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_fx

    model = _model(name)
    prepared = prepare_fx(model, get_default_qconfig_mapping(), (_image(),))
    observers = [n for n, _ in prepared.named_modules() if "activation_post_process" in n]
    assert len(observers) > 10
    torch.testing.assert_close(prepared(_image()), _model(name)(_image()))


@pytest.mark.parametrize("feature_cls", ["fx", "hook"])
@pytest.mark.parametrize("name", LEVELS_ARE_MODULES)
@torch.no_grad()
def test_levels_of_graphs_and_hooks_are_those_of_the_getter(name: str, feature_cls: str) -> None:
    """As the modules give them: maps in NHWC, or Vim's tokens."""
    getter = _model(name, features_only=True)
    other = _model(name, features_only=True, feature_cls=feature_cls)
    assert other.feature_info.channels() == getter.feature_info.channels()
    maps = other(_image())
    assert len(maps) == len(getter.feature_info.channels())
    for actual, expected, channels in zip(maps, getter(_image()), other.feature_info.channels(), strict=True):
        assert actual.shape[-1] == channels
        _compare(actual, expected, getter.model)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", [*map(_slow_if_large, NAMES)])
@torch.no_grad()
def test_jit_trace_is_right_at_its_size_and_never_wrong_at_others(name: str) -> None:
    model = _model(name)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, _image(), check_trace=False), file)  # which traces twice more
    file.seek(0)
    traced = torch.jit.load(file)
    torch.testing.assert_close(traced(_image()), model(_image()))
    for image in (_image(1), _image(1, 96, 64), _image(3, 65, 47), _image(2, 128, 128)):
        try:
            actual = traced(image)
        except RuntimeError:
            continue  # the trace has the number of pixels, or of cells, as a constant
        torch.testing.assert_close(actual, model(image))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_jit_trace_with_derivatives_is_refused_with_the_remedy() -> None:
    with pytest.raises(RuntimeError, match=r"trace in torch.no_grad\(\)"):
        torch.jit.trace(_model("vmamba_nano_test"), _image())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features_only": True, "feature_cls": "list"}, r"feature_cls='list' is not possible for vmamba_nano_test"),
        ({"features_only": True, "feature_cls": "dict"}, r"choose 'getter' or 'fx' or 'hook'"),
        ({"features_only": True, "output_stride": 16}, r"output_stride=16 is not possible for vmamba_nano_test"),
        ({"output_stride": 8}, r"its layers cannot be dilated. Leave it out"),
        ({"img_size": 96}, r"vmamba_nano_test has no argument img_size: it takes images of any size"),
        ({"nonsense": 1}, r"unexpected keyword argument 'nonsense'"),
    ],
)
def test_arguments_that_a_model_has_not_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        timm.create_model("vmamba_nano_test", **options)


def test_levels_that_are_no_modules_come_from_the_getter_alone() -> None:
    with pytest.raises(ValueError, match="feature_cls='fx' is not possible for hrvmamba_nano_test; choose 'getter'"):
        timm.create_model("hrvmamba_nano_test", features_only=True, feature_cls="fx")


def test_the_own_output_stride_is_taken() -> None:
    """segmentation_models_pytorch and others give it to every model."""
    assert _model("vmamba_nano_test", features_only=True, output_stride=32).feature_info.reduction() == [4, 8, 16, 32]
    with pytest.raises(ValueError, match="output_stride=32 is not possible for vim_nano_test"):
        timm.create_model("vim_nano_test", features_only=True, output_stride=32)


def test_tests_that_the_page_names_are_here() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    named = re.findall(r"\| `(test_\w+)` \|", page)
    assert len(named) >= 6
    assert set(named) <= set(globals())


@leaf_module
class _Branching(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y if x.shape[0] > 1 else x - y


class _Sub(_Branching):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * x if x.sum() > 0 else y


@leaf_function
def _branching(x: Tensor, sizes: tuple[int, int]) -> Tensor:
    return x * 2 if sizes[0] > 1 else x


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([_Branching(), _Sub()])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x, x)
        return _branching(x, (x.shape[0], 3))


def test_a_leaf_and_its_subclass_are_single_nodes_of_a_graph() -> None:
    graph = torch.fx.symbolic_trace(_Network())
    targets = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert targets == ["parts.0", "parts.1"]
    for x in (torch.ones(1, 2), torch.ones(2, 2), -torch.ones(2, 2)):
        torch.testing.assert_close(graph(x), _Network()(x))

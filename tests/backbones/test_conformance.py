"""One suite that every registered backbone passes: timm's contract, sizes, gradients, precision, compilation."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import visionssm
from visionssm.backbones._plain import PlainBackbone

# Every family registers a variant of under a million parameters; the published sizes take minutes.
NAMES = [
    pytest.param(name, marks=[] if name.endswith("_nano_test") else [pytest.mark.slow])
    for name in visionssm.list_models()
]
every_model = pytest.mark.parametrize("name", NAMES)


def _create(name: str, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, **kwargs)


def _image(model: nn.Module, batch: int = 2, size: tuple[int, int] | None = None) -> Tensor:
    channels, height, width = model.default_cfg["input_size"]
    height, width = size or (min(height, 64), min(width, 64))
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


@every_model
def test_it_follows_timms_contract(name: str) -> None:
    model = _create(name).eval()
    image = _image(model, batch=1)
    features = model.forward_features(image)
    assert features.shape[-1] == model.num_features
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    torch.testing.assert_close(model(image), model.forward_head(features))
    state = model.state_dict()
    names = _tuple(model.default_cfg["classifier"])  # a distilled model has two
    assert _tuple(model.get_classifier()) == tuple(model.get_submodule(name) for name in names)
    assert all(f"{name}.weight" in state for name in names)
    assert f"{model.default_cfg['first_conv']}.weight" in state
    for key in ("mean", "std", "interpolation", "crop_pct", "input_size", "pool_size"):
        assert model.default_cfg[key], key


@every_model
def test_constructor_options_reach_the_model(name: str) -> None:
    model = _create(name, num_classes=7, in_chans=1, drop_rate=0.1, drop_path_rate=0.1).eval()
    channels_first = _image(model)[:, :1]
    assert model(channels_first).shape == (2, 7)
    assert model.in_chans == 1
    with pytest.raises(TypeError, match="not_an_option"):
        _create(name, not_an_option=1)


@every_model
def test_reset_classifier_changes_the_head_only(name: str) -> None:
    model = _create(name).eval()
    image = _image(model)
    before = model.forward_features(image)
    model.reset_classifier(5)
    assert model(image).shape == (2, 5)
    model.reset_classifier(0)
    assert model(image).shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.forward_features(image), before)


@every_model
def test_features_only_returns_the_maps_that_feature_info_promises(name: str) -> None:
    wanted = (1, 3)
    model = _create(name, features_only=True, out_indices=wanted).eval()
    full = _create(name).eval()
    image = _image(full, size=(96, 64))
    maps = model(image)
    assert len(maps) == len(wanted)
    for map_, channels, reduction in zip(
        maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        grid = (96 // reduction, 64 // reduction)
        if isinstance(full, PlainBackbone):  # whole patches, which may overlap
            grid = full.patch_embed.grid_size((96, 64))
        assert map_.shape == (2, channels, *grid)
    _, expected = full.forward_intermediates(image, indices=list(wanted))
    for actual, reference in zip(maps, expected, strict=True):
        torch.testing.assert_close(actual, reference)


@every_model
def test_intermediates_agree_with_forward_features(name: str) -> None:
    model = _create(name).eval()
    image = _image(model)
    final, maps = model.forward_intermediates(image)
    torch.testing.assert_close(final, model.forward_features(image))
    assert len(maps) == len(model.feature_info)
    only = model.forward_intermediates(image, indices=1, stop_early=True, intermediates_only=True)
    torch.testing.assert_close(only[0], maps[-1])
    with pytest.raises(ValueError, match="output_fmt"):
        model.forward_intermediates(image, output_fmt="CHWN")


@every_model
@pytest.mark.parametrize("size", [(64, 64), (65, 43), (33, 97)])
def test_any_input_size_runs(name: str, size: tuple[int, int]) -> None:
    model = _create(name, **_size_options(name, size)).eval()
    output = model(_image(model, batch=1, size=size))
    assert output.shape == (1, model.num_classes)
    assert output.isfinite().all()


@every_model
def test_images_of_a_batch_do_not_mix(name: str) -> None:
    model = _create(name).eval()
    image = _image(model, batch=3)
    together = model(image)
    alone = torch.cat([model(x[None]) for x in image])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@every_model
def test_memory_layout_of_the_image_does_not_matter(name: str) -> None:
    model = _create(name).eval()
    image = _image(model)
    torch.testing.assert_close(
        model(image.contiguous(memory_format=torch.channels_last)), model(image), rtol=1e-4, atol=1e-5
    )


@every_model
def test_gradients_reach_every_parameter(name: str) -> None:
    model = _create(name).train()
    model(_image(model)).square().mean().backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    dead = [n for n, p in trained.items() if p.grad is None or not p.grad.isfinite().all()]
    assert not dead
    unused = set(dict(model.named_parameters())) - set(trained)
    assert all(n.endswith("gates.weight") for n in unused)  # of a pLSTM ablation, as in its authors' files
    assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if n.endswith("proj.weight"))


@every_model
def test_gradient_checkpointing_changes_no_number(name: str) -> None:
    model = _create(name).train()
    image = _image(model)
    plain = _gradients(model, image)
    model.set_grad_checkpointing()
    for key, gradient in _gradients(model, image).items():
        torch.testing.assert_close(gradient, plain[key], msg=key)


class RoundProducts(TorchDispatchMode):
    """Within this context, operands and results of convolutions and matrix products are rounded to `dtype`.

    What that changes is the least that a run in mixed precision can lose: sums and all other operators are exact.
    """

    PRODUCTS = ("aten.addmm", "aten.bmm", "aten.convolution", "aten.mm")

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if str(func.overloadpacket) not in self.PRODUCTS:
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, self._round, (args, kwargs))
        return self._round(func(*args, **kwargs))

    def _round(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).to(x.dtype)


@every_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_is_finite_and_loses_little(name: str, dtype: torch.dtype) -> None:
    model = _create(name).eval()
    image = _image(model)
    with torch.no_grad():
        exact = model(image)
        with RoundProducts(dtype):
            rounded = model(image)
    with torch.autocast("cpu", dtype=dtype):
        actual = model(image)
    assert actual.isfinite().all()
    # Autocast also rounds what lies between the products, on CPUs the sums of the residual stream among it. In float32
    # these bring the loss down to that of the products; in half precision it is 1.0 to 2.8 times as large.
    assert (actual - exact).square().mean().sqrt() <= 4 * (rounded - exact).square().mean().sqrt()
    actual.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every_model
def test_model_converted_to_bfloat16_stays_in_bfloat16(name: str) -> None:
    model = _create(name).eval().to(torch.bfloat16)
    output = model(_image(model).to(torch.bfloat16))
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()


@every_model
def test_saved_state_restores_the_model(name: str) -> None:
    model, other = _create(name).eval(), timm.create_model(name, pretrained=False).eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    image = _image(model)
    torch.testing.assert_close(other(image), model(image))
    torch.testing.assert_close(copy.deepcopy(model)(image), model(image))


@every_model
def test_meta_device_needs_no_memory(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, device="meta").eval()
        assert model(_image(model).to("meta")).shape == (2, model.num_classes)


@every_model
def test_layer_decay_groups_cover_every_parameter(name: str) -> None:
    from timm.models import group_parameters

    model = _create(name)
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(groups) == {n for n, _ in model.named_parameters()}
    assert len(set(groups.values())) >= len(model.feature_info)


@every_model
def test_definition_and_cpu_kernels_agree(name: str) -> None:
    model = _create(name).eval()
    image = _image(model)
    with visionssm.use_backend("reference"):
        expected = model(image)
    torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-5)


# Fewer blocks of the same kinds, as tracing takes long: four of these kinds are one block with other numbers.
SHALLOW: dict[str, dict[str, object]] = {
    "hrvmamba_nano_test": {"modules": (1, 1, 1)},
    "plstm_nano_test": {"depth": 2},
    "videomamba_img_nano_test": {"depth": 2},
    "vim_nano_test": {"depth": 2},
}


# The graph that is traced says both; `aot_eager` also rewrites it, as each operator's own tests do.
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
@every_model
def test_compiled_model_has_no_graph_break_and_equals_eager(name: str, backend: str) -> None:
    model = _create(name, **SHALLOW.get(name, {})).eval()
    image = _image(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), model(image), rtol=1e-4, atol=1e-5)


def _tuple(x: object) -> tuple:
    return x if isinstance(x, tuple) else (x,)


def _gradients(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    model(image).square().mean().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def _size_options(name: str, size: tuple[int, int]) -> dict[str, object]:
    """Models with a position table are built for their size."""
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    return {"img_size": size} if fixed else {}

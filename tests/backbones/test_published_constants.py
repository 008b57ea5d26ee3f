"""Constants of the publications that no output shows: how parameters start, what is decayed, how images are prepared.

The tables say what the papers and the authors' code say, family by family. Every parameter of a family needs a rule.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

import visionssm
from visionssm.backbones.convs5 import create_convs5
from visionssm.layers.ss2d import SS2D

# ------------------------------------------------------------------------------------------- how parameters start


@dataclass(frozen=True)
class Law:
    """A distribution: what brings a parameter to the standard form, and the standard form's distribution function."""

    standardise: Callable[[Tensor, nn.Module], Tensor]
    cdf: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exactly:
    """One number everywhere."""

    number: float


def _normal_cdf(x: Tensor) -> Tensor:
    return torch.special.ndtr(x)


def _cut_normal_cdf(x: Tensor) -> Tensor:
    """Of a normal distribution cut at two deviations and widened to variance 1."""
    tail = _normal_cdf(torch.tensor(-2.0, dtype=torch.float64))
    return ((_normal_cdf(0.87962566103423978 * x) - tail) / (1 - 2 * tail)).clamp(0, 1)


def _uniform_cdf(x: Tensor) -> Tensor:
    """From −1 to 1."""
    return ((x + 1) / 2).clamp(0, 1)


def normal(std: float) -> Law:
    """Of mean 0."""
    return Law(lambda value, module: value / std, _normal_cdf)


def uniform(low: float, high: float, of: Callable[[Tensor], Tensor] = lambda x: x) -> Law:
    """A function of the parameter is uniform."""
    return Law(lambda value, module: (2 * of(value) - low - high) / (high - low), _uniform_cdf)


def _fan_in(module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight[0].numel()


def _fan_out(module: nn.Module) -> float:
    assert isinstance(module, nn.Conv2d)
    return module.kernel_size[0] * module.kernel_size[1] * module.out_channels / module.groups


ZEROS, ONES = Exactly(0.0), Exactly(1.0)
# PyTorch's own start of linear layers and convolutions, weights and biases.
DEFAULT = Law(lambda value, module: value * _fan_in(module) ** 0.5, _uniform_cdf)
LECUN = Law(lambda value, module: value * _fan_in(module) ** 0.5, _cut_normal_cdf)
HE_FAN_OUT = Law(lambda value, module: value * (_fan_out(module) / 2) ** 0.5, _normal_cdf)
# Of a bare parameter, whose last axis is what a linear layer would sum over.
LAST_AXIS = Law(lambda value, module: value * value.shape[-1] ** 0.5, _uniform_cdf)
SMALL = Law(lambda value, module: value * (5 * value.shape[-1] / 2) ** 0.5, _normal_cdf)
# softplus of the bias is a step from 0.001 to 0.1, uniform in its logarithm.
STEPS = uniform(math.log(1e-3), math.log(1e-1), lambda bias: nn.functional.softplus(bias).log())

SCAN: dict[str, Law | Exactly] = {
    r"\.Ds$": ONES,
    r"\.x_proj_weight$": LAST_AXIS,
    r"\.dt_projs_weight$": LAST_AXIS,
    r"\.dt_projs_bias$": STEPS,
}
NORMS: dict[str, Law | Exactly] = {r"norm weight$": ONES, r"norm bias$": ZEROS}
LINEAR: dict[str, Law | Exactly] = {r"linear weight$": normal(0.02), r"linear bias$": ZEROS}
CONVS: dict[str, Law | Exactly] = {r"conv (weight|bias)$": DEFAULT}
SWIN: dict[str, Law | Exactly] = {**SCAN, **NORMS, **LINEAR, **CONVS}


@dataclass(frozen=True)
class Start:
    """A model, and the law of every parameter: the first whose pattern is found in "name kind part"."""

    model: str
    laws: Mapping[str, Law | Exactly]
    options: Mapping[str, Any]


def _start(model: str, laws: Mapping[str, Law | Exactly], **options: Any) -> Start:
    return Start(model, laws, options)


STARTS = {
    "vmamba": _start("vmamba_nano_test", SWIN),
    "vmamba_v0": _start("vmamba_v0_tiny", SWIN, depths=(1, 1, 1, 1), dim=24),
    "msvmamba": _start("msvmamba_nano_test", SWIN),
    "msvmamba_v3": _start("msvmamba_v3_nano_test", SWIN),
    "efficientvmamba": _start("efficientvmamba_nano_test", SWIN),
    "spatialmamba": _start(
        "spatialmamba_nano_test", {r"state_fusion\.(kernel_3(_[12])?|alpha)$": ONES, r"^norm|bn": ONES, **SWIN}
    ),
    "vssd": _start(
        "vssd_nano_test",
        {
            r"\.dt_bias$": STEPS,
            r"\.A_log$": uniform(1, 16, torch.exp),
            r"\.D$": ONES,
            **SWIN,
        },
        depths=(12, 12, 12, 1),
        num_heads=(20, 40, 80, 8),
    ),
    "groupmamba": _start(
        "groupmamba_nano_test",
        {
            r"\.skip_scale$": ONES,
            r"\.(in|out)_proj\.weight$": normal(0.02),
            r"\.out_norm\.weight$": ONES,
            r"\.out_norm\.bias$": ZEROS,
            r"conv weight$": HE_FAN_OUT,
            r"conv bias$": ZEROS,
            **SWIN,
        },
    ),
    "hrvmamba": _start("hrvmamba_nano_test", SWIN),
    "mambavision": _start(
        "mambavision_nano_test",
        {
            r"\.(x_proj|dt_projs)_weight$": normal(0.02),  # they are linear layers like any other here
            r"\.mixer\.dt_projs_bias$": ZEROS,
            r"\.gamma$": Exactly(1e-5),
            **SWIN,
        },
        layer_scale=1e-5,
        dim=64,
    ),
    "mambayolo": _start(
        "mambayolo_nano_test",
        {
            r"\.dt_projs_(weight|bias)$": normal(1.0),
            r"linear (weight|bias)$": DEFAULT,
            **SWIN,
        },
    ),
    "vim": _start(
        "vim_nano_test",
        {
            r"patch_embed\.proj conv weight$": LECUN,
            r"patch_embed\.proj conv bias$": ZEROS,
            r"^(cls_token|pos_embed)$": normal(0.02),
            r"^head linear weight$": normal(0.02),
            r"^head linear bias$": ZEROS,
            r"\.out_proj linear weight$": Law(lambda x, module: x * (4 * x.shape[-1]) ** 0.5, _uniform_cdf),  # 4 blocks
            r"\.back\.dt_projs_bias$": ZEROS,
            r"linear (weight|bias)$": DEFAULT,
            **SWIN,
        },
        embed_dim=192,
    ),
    "videomamba": _start(
        "videomamba_img_nano_test",
        {
            r"^cls_token$": ZEROS,
            r"^pos_embed$": normal(0.02),
            r"\.out_proj linear weight$": Law(lambda x, module: x * (4 * x.shape[-1]) ** 0.5, _uniform_cdf),  # 4 blocks
            r"\.(x_proj|dt_projs)_weight$": normal(0.02),
            r"\.(ahead|back)\.dt_projs_bias$": ZEROS,
            **SWIN,
        },
        embed_dim=192,
    ),
    "localvim": _start(
        "localvim_nano_test",
        {
            r"patch_embed\.proj conv weight$": LECUN,
            r"patch_embed\.proj conv bias$": ZEROS,
            r"^pos_embed$": normal(0.02),
            r"\.out_proj linear weight$": Law(lambda x, module: x * (4 * x.shape[-1]) ** 0.5, _uniform_cdf),  # 4 layers
            r"\.(x_proj|dt_projs)_weight$": normal(0.02),  # they are linear layers like any other here
            r"\.mixer\.dt_projs_bias$": ZEROS,
            **SWIN,
        },
        embed_dim=96,
    ),
    "localvim_supernet": _start(
        "localvim_tiny_search",
        {
            r"\.multi_scan\.weights$": ONES,
            r"^pos_embed$": normal(0.02),
            r"patch_embed\.proj conv weight$": LECUN,
            r"patch_embed\.proj conv bias$|\.dt_projs_bias$": ZEROS,
            r"\.(x_proj|dt_projs)_weight$": normal(0.02),
            r"\.out_proj linear weight$": DEFAULT,
            **SWIN,
        },
        depth=1,
    ),
    "localvmamba": _start("localvmamba_nano_test", SWIN),
    "plainmamba": _start("plainmamba_nano_test", {r"^pos_embed$|\.direction_Bs$": normal(0.02), **SWIN}),
    "plstm": _start(
        "plstm_nano_test",
        {
            r"\.gates\.weight$": ZEROS,
            r"orientation linear weight$": ZEROS,
            r"patch_embed\.proj conv bias$": ZEROS,
            r"\.proj linear weight$": DEFAULT,
            r"\.head_norm\.weight$": ONES,
            r"^pos_embed$": SMALL,
            r"^head linear weight$": normal(2e-5),
            r"^head linear bias$": ZEROS,
            r"(linear|conv) weight$": SMALL,
            r"(qkv|fc[12]) linear bias$": ZEROS,
            r"\.scale[12]\.gamma$": Exactly(1e-4),
            **NORMS,
        },
        layer_scale=1e-4,
    ),
}
# Constants that are no distribution; a test below has each.
ELSEWHERE = r"\.(A_logs|gates\.bias|direct_bias|(?<!scale[12]\.)gamma)$|orientation linear bias$"


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return "conv"
    return "norm" if isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.BatchNorm2d) else ""


def _labelled(model: nn.Module) -> list[tuple[str, Tensor, nn.Module]]:
    """Of every parameter "module kind part", or its name alone where the module is none of PyTorch's kinds."""
    found = []
    for path, module in model.named_modules():
        for part, value in module.named_parameters(recurse=False):
            kind = _kind(module)
            bare = f"{path}.{part}" if path else part
            found.append((f"{path} {kind} {part}" if kind else bare, value.detach(), module))
    return found


def _distance(sample: Tensor, cdf: Callable[[Tensor], Tensor]) -> float:
    """Largest difference of the sample's distribution function from another one (Kolmogorov and Smirnov)."""
    values = cdf(sample.sort().values)
    steps = torch.arange(len(values) + 1, dtype=torch.float64) / len(values)
    return float(torch.maximum(values - steps[:-1], steps[1:] - values).max())


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_parameters_start_as_published(start: Start) -> None:
    torch.manual_seed(0)
    model = timm.create_model(start.model, **start.options)
    samples: dict[str, list[Tensor]] = defaultdict(list)
    for label, value, module in _labelled(model):
        if re.search(ELSEWHERE, label):
            continue
        pattern = next((pattern for pattern in start.laws if re.search(pattern, label)), None)
        assert pattern is not None, f"{label}: no publication says how it starts"
        law = start.laws[pattern]
        if isinstance(law, Exactly):
            assert value.eq(law.number).all(), label
        else:
            samples[pattern].append(law.standardise(value.double(), module).flatten())
    for pattern, parts in samples.items():
        law, sample = start.laws[pattern], torch.cat(parts)
        assert isinstance(law, Law)
        assert len(sample) > 100, f"{pattern}: {len(sample)} numbers show no distribution"
        assert _distance(sample, law.cdf) < 1.95 / len(sample) ** 0.5, pattern  # one in a thousand is larger


def test_every_family_has_a_table_of_starts() -> None:
    families = {timm.model_entrypoint(name).__module__ for name in visionssm.list_models()}
    assert {timm.model_entrypoint(start.model).__module__ for start in STARTS.values()} == families


STATES = {
    "mambavision_nano_test": 8,
    "vmamba_v0_tiny": 16,
    "efficientvmamba_nano_test": 16,
    "videomamba_img_nano_test": 16,
    "vim_nano_test": 16,
    "localvim_nano_test": 16,
    "plainmamba_nano_test": 16,
    "localvmamba_nano_test": 16,
} | dict.fromkeys(
    [f"{name}_nano_test" for name in ("vmamba", "msvmamba", "msvmamba_v3", "groupmamba", "hrvmamba", "spatialmamba")], 1
)


@pytest.mark.parametrize("model, states", STATES.items())
def test_state_matrices_start_with_decay_rates_from_one_to_the_number_of_states(model: str, states: int) -> None:
    tables = [value for name, value in timm.create_model(model).named_parameters() if name.endswith(".A_logs")]
    assert tables
    for table in tables:
        torch.testing.assert_close(table.exp(), torch.arange(1.0, states + 1).expand_as(table))


def test_every_state_of_mamba_yolo_starts_with_the_decay_rate_one() -> None:
    tables = [x for name, x in timm.create_model("mambayolo_nano_test").named_parameters() if name.endswith(".A_logs")]
    assert len(tables) == 5
    assert all(table.shape[1] == 16 and table.eq(0).all() for table in tables)


def test_published_gates_of_plstm_start_with_long_memory_and_small_steps() -> None:
    model = timm.create_model("plstm_nano_test")
    propagation, diffusion = model.layers[0][0].mixer, model.layers[0][1].mixer
    for mixer, transitions in ((propagation, 1), (diffusion, 3)):
        assert mixer.gates.bias[:transitions].eq(1).all()  # before tanh(5·)
        assert mixer.gates.bias[transitions:].eq(-4).all()  # before the sigmoid, of sources and marks
        assert mixer.direct_bias.eq(-6).all()
    assert torch.equal(propagation.orientation.bias, torch.linspace(-2, 2, 3).repeat(4))
    scaled = timm.create_model("plstm_vis_t_scale", depth=1)
    gammas = [value for name, value in scaled.named_parameters() if name.endswith("gamma")]
    assert len(gammas) == 4
    assert all(gamma.eq(1e-4).all() for gamma in gammas)


# ----------------------------------------------------------------------------------------------------- weight decay

# What is decayed beside weights of more than one dimension, and what is not beside biases and 1-D parameters.
NOT_DECAYED: dict[str, str] = {
    "efficientvmamba": r"$^",  # A_logs and the steps' biases have two dimensions: the authors decay them
    "groupmamba": r"$^",
    "hrvmamba": r"$^",
    "localmamba": r"^pos_embed$|\.mixer\.dt_projs_bias$|\.op\.(A_logs|Ds)$",  # as Vim, and as VMamba
    "mambavision": r"\.dt_projs_bias$",  # of one dimension in the authors' files
    "mambayolo": r"\.dt_projs_bias$",  # a bias by its name; A_logs is decayed
    "msvmamba": r"$^",
    "plainmamba": r"^pos_embed$|\.(A_logs|direction_Bs)$",
    "plstm": r"^pos_embed$",
    "spatialmamba": r"\.dt_projs_bias$",
    "videomamba": r"^(pos_embed|cls_token)$|\.dt_projs_bias$",
    "vim": r"^(pos_embed|cls_token)$|\.dt_projs_bias$",
    "vmamba": r"\.(A_logs|Ds)$",
    "vssd": r"$^",
}


def _family(model: str) -> str:
    return timm.model_entrypoint(model).__module__.rpartition(".")[2]


@pytest.mark.parametrize("name", visionssm.list_models("*_nano_test"))
def test_only_what_is_published_is_spared_the_weight_decay(name: str) -> None:
    model = timm.create_model(name)
    spared, decayed = param_groups_weight_decay(model, 0.1, no_weight_decay_list=model.no_weight_decay())
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter in [*spared["params"], *decayed["params"]]:
        label = names[id(parameter)]
        excepted = parameter.ndim <= 1 or label.endswith(".bias") or re.search(NOT_DECAYED[_family(name)], label)
        assert any(parameter is x for x in spared["params"]) == bool(excepted), label


# ------------------------------------------------------------------------------------------------- numbers of norms

OTHER_EPS: Mapping[str, Mapping[str, float]] = {  # families with another than 1e-5, and where
    "groupmamba": {r"\.norm2$|class_block\.norm1$|^head\.norm$|\.downsample\.0$": 1e-6},
    "mambavision": {r"^patch_embed\.": 1e-4},
    "plainmamba": {r"^norm$": 1e-6},
    "mambayolo": {r"(\.proj|\.lsblock|^patch_embed\.\d)\.norm$": 1e-3, r"\.blocks\.\d\.norm2?$": 1e-6},
}


@pytest.mark.parametrize("name", visionssm.list_models("*_nano_test"))
def test_norms_have_the_published_eps(name: str) -> None:
    model = timm.create_model(name)
    norms = {path: module.eps for path, module in model.named_modules() if hasattr(module, "eps")}
    assert norms
    others = OTHER_EPS.get(_family(name), {})
    for path, eps in norms.items():
        assert eps == next((other for pattern, other in others.items() if re.search(pattern, path)), 1e-5), path


def test_batch_norms_of_mamba_yolo_forget_slowly() -> None:
    norms = [x for x in timm.create_model("mambayolo_nano_test").modules() if isinstance(x, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.03}


def test_norms_of_convs5_have_the_eps_of_flax() -> None:
    norms = [module for module in create_convs5("convs5_nano").modules() if hasattr(module, "eps")]
    assert len(norms) > 10
    assert {norm.eps for norm in norms} == {1e-6}


# ------------------------------------------------------------------------------------------------------- drop rates


@pytest.mark.parametrize("name", visionssm.list_models("*_nano_test"))
def test_stochastic_depth_rises_linearly_over_all_blocks(name: str) -> None:
    model = timm.create_model(name, drop_path_rate=0.3)
    assert all(rate == 0 for rate in _drop_rates(timm.create_model(name)))
    rates = _drop_rates(model)
    if name.startswith(("vim", "videomamba", "localvim")):
        # A block drops the output of the block before it, and the last sum that of the last.
        first, *others = (block.drop_path.drop_prob for block in model.layers)
        assert first == 0
        rates = [*others, model.drop_path.drop_prob]
    levels = sorted(set(rates))
    assert len(levels) > 3
    assert levels == pytest.approx([0.3 * i / (len(levels) - 1) for i in range(len(levels))], abs=1e-6)
    if not name.startswith("hrvmamba"):  # whose branches run side by side
        assert rates == sorted(rates)


def _drop_rates(model: nn.Module) -> list[float]:
    return [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]


# ---------------------------------------------------------------------------------------------- preparation of images


@dataclass(frozen=True)
class Images:
    """What a publication evaluates on."""

    size: int = 224
    crop: float = 0.875  # the side of the crop over that of the resized image, 224 of 256
    mode: str = "center"  # or "squash": both sides of the image are resized to the same length
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


WHOLE = Images(crop=1.0)
PREPARED: dict[str, Images] = {
    r"(vmamba|msvmamba|efficientvmamba|vssd|spatialmamba|groupmamba|vim|videomamba|localvim|localvmamba)_.*": Images(),
    r"plainmamba_.*": Images(),
    r"hrvmamba_(nano|tiny|small).*": Images(256, 1.0),
    r"mambavision_(tiny|base|large2?)": WHOLE,
    r"mambavision_tiny2": Images(crop=0.98),
    r"mambavision_small": Images(crop=0.93),
    r"mambayolo_.*": Images(640, 1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),  # a detector's, in [0, 1]
    r"mambavision_large3_256_21k": Images(256, 1.0),
    r"mambavision_large[23]_512_21k": Images(512, 0.93, "squash"),
    r"hrvmamba_base": WHOLE,
    r"plstm_ape": Images(192, 1.0),
    r"plstm_vis_t.*": Images(),  # the tiny models are those of the ablation
    r"plstm_vis_[sb].*": WHOLE,
}
PUBLISHED = [name for name in visionssm.list_models() if not name.endswith("_nano_test")]


def _prepared(name: str) -> Images:
    (images,) = [images for pattern, images in PREPARED.items() if re.fullmatch(pattern, name)]
    return images


@pytest.mark.parametrize("name", PUBLISHED)
def test_images_are_prepared_as_published(name: str) -> None:
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    images = _prepared(name)
    assert cfg.input_size == (3, images.size, images.size)
    assert cfg.crop_pct == images.crop
    assert cfg.interpolation == "bicubic"
    assert (tuple(cfg.mean), tuple(cfg.std)) == (images.mean, images.std)
    assert (WHOLE.mean, WHOLE.std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert cfg.num_classes == (2 if name == "plstm_ape" else 1000)
    assert cfg.crop_mode == images.mode


def test_mixer_without_arguments_is_that_of_vmambas_published_sizes() -> None:
    mixer = SS2D(40)
    assert (mixer.d_state, mixer.dt_rank, mixer.dim) == (1, 3, 40)
    assert mixer.conv2d.bias is None

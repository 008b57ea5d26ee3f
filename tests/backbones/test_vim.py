"""Vim equals the authors' code, and keeps what is particular to it: the middle token, the deferred stream."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

import visionssm
from tests.reference_cases import Case, every_case, gradient_norms
from visionssm.backbones import vim
from visionssm.checkpoints import CheckpointError

TOLERANCE = 1e-4


def _case_model(case: Case) -> vim.Vim:
    init = case.meta["init"]
    size = init["img_size"]
    model = timm.create_model(
        re.sub("_(grad|nocls)$", "", case.data["name"]),
        img_size=tuple(size) if isinstance(size, list) else size,
        class_token=init["cls_token"] == "middle",
    )
    visionssm.load_official(model, case.state_dict())
    return model.eval()


def _stages(model: vim.Vim, image: Tensor) -> dict[str, Tensor]:
    """What `meta.stages` describes, by its words."""
    streams = [model.begin(model.patch_embed(image))]
    for layer in model.layers:
        streams.append(layer(streams[-1]))
    stages = {
        "tokens after class token": streams[0].hidden,
        **{f"mixer output of block {i}": stream.hidden for i, stream in enumerate(streams[1:])},
        "residual stream entering the norm of block 23": streams[-1].residual,
        "all tokens after the final add and RMSNorm": model.end(streams[-1]),
    }
    if model.cls_token is None:
        mixers = model.forward_intermediates(image, intermediates_only=True)
        stages |= {f"mixer output of block {i} as (B, C": map_ for i, map_ in enumerate(mixers)}
        model.tap_residual = True
        last = model.forward_intermediates(image, indices=1, intermediates_only=True)
        stages["residual stream after the whole of block 23"] = last[0]
    return stages


def _check(case: Case) -> None:
    model = _case_model(case)
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    stages = _stages(model, case.image())
    output = model.forward_head(stages["all tokens after the final add and RMSNorm"])
    assert case.relative_error("output", output) <= TOLERANCE
    for i, description in enumerate(case.meta["stages"]):
        stage = stages[max((words for words in stages if description.startswith(words)), key=len)]
        assert case.relative_error(f"stage{i}", stage) <= TOLERANCE, description
    if "grad_norms" in case.data:
        (output * case.cotangent(output)).sum().backward()
        for name, (actual, expected) in gradient_norms(case, model, vim.checkpoint_filter_fn).items():
            assert actual == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE * 1e-2), name


@every_case("Vim", slow="small|base|stride8")
def test_vim_equals_authors_on_the_cpu_kernels(case: Case) -> None:
    with torch.set_grad_enabled("grad_norms" in case.data):
        _check(case)


@every_case("Vim", slow="small|base|stride8|tiny$")
def test_vim_equals_authors_on_the_definition(case: Case) -> None:
    with torch.set_grad_enabled("grad_norms" in case.data), visionssm.use_backend("reference"):
        _check(case)


def _nano(**options: Any) -> vim.Vim:
    torch.manual_seed(0)
    return timm.create_model("vim_nano_test", **options).eval()


def _image(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size,slot", [((224, 224), 98), ((48, 48), 4), ((112, 144), 31), ((16, 16), 0)])
def test_class_token_stands_before_the_middle_patch_and_positions_count_it(size: tuple[int, int], slot: int) -> None:
    model = _nano(img_size=size)
    patches = model.patch_embed(_image(*size))
    tokens = model.begin(patches).hidden
    class_token = tokens[:, slot] - model.pos_embed[:, slot]
    torch.testing.assert_close(class_token, model.cls_token[0].expand_as(class_token))
    if slot:
        torch.testing.assert_close(tokens[:, 0] - model.pos_embed[:, 0], patches[:, 0, 0])
    torch.testing.assert_close(tokens[:, -1] - model.pos_embed[:, -1], patches[:, -1, -1])
    features = model.forward_features(_image(*size))
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features[:, slot])


def test_deferred_stream_equals_ordinary_residual_blocks() -> None:
    model = _nano()
    x = model.begin(model.patch_embed(_image())).hidden
    for block in model.layers:
        x = x + 0.5 * block.mixer(block.norm(x))
    torch.testing.assert_close(model.forward_features(_image()), model.norm(x))


def test_drop_path_rates_are_one_block_late() -> None:
    model = _nano(drop_path_rate=0.3)
    rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.0, 0.0, 0.1, 0.2, 0.3])


def test_a_dropped_block_leaves_the_stream_as_it_was() -> None:
    model = _nano(drop_path_rate=1 - 1e-9).train()
    image = _image()
    stream = model.begin(model.patch_embed(image))
    torch.testing.assert_close(model.end(model.layers[0](stream)), model.norm(stream.hidden))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_residual_stream_stays_in_float32(dtype: torch.dtype) -> None:
    model = _nano()
    with torch.autocast("cpu", dtype=dtype):
        stream = model.begin(model.patch_embed(_image()))
        for block in model.layers:
            stream = block(stream)
            assert stream.residual.dtype == torch.float32
            assert stream.hidden.dtype == dtype
    model.to(torch.bfloat16)
    stream = model.layers[1](model.layers[0](model.begin(model.patch_embed(_image().bfloat16()))))
    assert stream.residual.dtype == torch.float32


def test_images_of_another_size_equal_a_model_resampled_for_it() -> None:
    model, other = _nano(), _nano(img_size=(96, 80))
    visionssm.load_official(other, model.state_dict())
    image = _image(96, 80)
    torch.testing.assert_close(model(image), other(image))
    model.set_input_size((96, 80))
    assert model.grid_size == (6, 5)
    torch.testing.assert_close(model(image), other(image))


def test_pixels_beyond_the_last_patch_are_ignored() -> None:
    model = _nano(stride=8, img_size=(70, 64))
    assert model.grid_size == (7, 7)
    image = _image(70, 64)
    changed = image.clone()
    changed[:, :, 64:] = 9.0
    torch.testing.assert_close(model(changed), model(image))


def test_pooling_without_class_token_is_the_mean_and_with_it_leaves_it_out() -> None:
    plain = _nano(class_token=False)
    features = plain.forward_features(_image())
    assert features.shape == (2, 16, 48)
    torch.testing.assert_close(plain.forward_head(features, pre_logits=True), features.mean(1))
    model = _nano(global_pool="avg")
    features = model.forward_features(_image())
    expected = features[:, [i for i in range(17) if i != 8]].mean(1)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), expected)


def test_pooling_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="global_pool='token'"):
        _nano(class_token=False, global_pool="token")
    with pytest.raises(ValueError, match="global_pool='median'"):
        _nano().reset_classifier(5, "median")


def test_intermediates_show_the_mixer_or_the_stream_without_the_class_token() -> None:
    mixer, stream = _nano(), _nano(tap_residual=True)
    image = _image(48, 80)
    tokens = stream.begin(stream.patch_embed(image)).hidden
    tokens = torch.cat([tokens[:, :7], tokens[:, 8:]], dim=1).unflatten(1, (3, 5)).permute(0, 3, 1, 2)
    outputs = mixer.forward_intermediates(image, intermediates_only=True)
    sums = stream.forward_intermediates(image, intermediates_only=True)
    for i, total in enumerate(sums):
        torch.testing.assert_close(total, tokens + sum(outputs[: i + 1]))
    final, (normed,) = mixer.forward_intermediates(image, indices=1, norm=True, output_fmt="NLC")
    torch.testing.assert_close(normed, torch.cat([final[:, :7], final[:, 8:]], dim=1))


def test_features_only_takes_the_blocks_of_the_authors_dense_models() -> None:
    model = timm.create_model("vim_tiny", features_only=True, device="meta")
    assert [info["module"] for info in model.feature_info.get_dicts()] == [f"layers.{i}" for i in (5, 11, 17, 23)]
    assert model.feature_info.reduction() == [16] * 4


def test_a_pruned_model_computes_the_same_map() -> None:
    model = _nano()
    expected = model.forward_intermediates(_image(), indices=[2], intermediates_only=True)
    assert model.prune_intermediate_layers([2], prune_norm=True) == [2]
    assert len(model.layers) == 3
    torch.testing.assert_close(model.forward_intermediates(_image(), indices=[2], intermediates_only=True), expected)
    assert model(_image()).shape == (2, 17, 48)


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vim_nano_test", embed_dim=64)
    bound = (128 * len(model.layers)) ** -0.5
    for block in model.layers:
        mixer = block.mixer
        assert (mixer.back.dt_projs_bias == 0).all()
        steps = nn.functional.softplus(mixer.ahead.dt_projs_bias)
        assert 9e-4 < steps.min() < steps.max() < 0.11
        for scan in (mixer.ahead, mixer.back):
            torch.testing.assert_close(scan.A_logs.exp(), torch.arange(1.0, 17).expand(128, 16))
            assert (scan.Ds == 1).all()
        assert 0.9 * bound < mixer.out_proj.weight.abs().max() <= bound
    assert float(model.patch_embed.proj.weight.detach().std()) == pytest.approx(768**-0.5, rel=0.05)
    for weight in (model.head.weight, model.pos_embed):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_weight_decay_spares_positions_biases_and_skips_but_not_the_state_matrices() -> None:
    model = _nano()
    groups = param_groups_weight_decay(model, 0.1, no_weight_decay_list=model.no_weight_decay())
    (decayed,) = [group["params"] for group in groups if group["weight_decay"]]
    names = {name for name, p in model.named_parameters() if any(p is other for other in decayed)}
    assert names == {
        name
        for name, _ in model.named_parameters()
        if re.search(r"(proj|head|conv1d)\.weight$|x_proj_weight|dt_projs_weight|A_logs", name)
    }


def _published_file(path: Path, grid: int) -> Path:
    """The nano variant's weights as the authors' trainer writes them."""
    ours = _nano(img_size=16 * grid).state_dict()
    names = {"x_proj_weight": "x_proj.weight", "dt_projs_weight": "dt_proj.weight", "dt_projs_bias": "dt_proj.bias"}
    names |= {"A_logs": "A_log", "Ds": "D", "conv1d.weight": "conv1d.weight", "conv1d.bias": "conv1d.bias"}
    theirs = {}
    for name, value in ours.items():
        match = re.fullmatch(r"(layers\.\d+\.mixer)\.(ahead|back)\.(.+)", name)
        if match is not None:
            name = f"{match[1]}.{names[match[3]]}"
            if match[2] == "back":
                name = re.sub(r"(conv1d|x_proj|dt_proj|A|D)(?=$|_log|\.weight|\.bias)(?!.*mixer)", r"\1_b", name)
            value = value[0] if re.search("x_proj|dt_proj", name) else value
        theirs[re.sub(r"^norm\.", "norm_f.", name)] = value
    wrong = {name: torch.zeros_like(value) for name, value in theirs.items()}
    torch.save(
        {"model": theirs, "model_ema": wrong, "epoch": 299, "args": argparse.Namespace(model="vim", lr=1e-3)}, path
    )
    return path


def test_a_published_file_with_its_arguments_loads(tmp_path: Path) -> None:
    expected = _nano(img_size=64)(_image())
    torch.manual_seed(7)
    model = timm.create_model("vim_nano_test").eval()
    visionssm.load_official(model, _published_file(tmp_path / "vim.pth", grid=4))
    torch.testing.assert_close(model(_image()), expected)


def test_a_published_table_is_resampled_around_the_middle_token(tmp_path: Path) -> None:
    path = _published_file(tmp_path / "vim.pth", grid=4)
    model = timm.create_model(
        "vim_nano_test", img_size=(96, 64), pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    )
    torch.testing.assert_close(model.eval()(_image(96, 64)), _nano(img_size=64)(_image(96, 64)))


def test_a_table_of_no_square_grid_is_refused() -> None:
    state = _nano().state_dict()
    state["pos_embed"] = torch.zeros(1, 12, 48)
    with pytest.raises(CheckpointError, match="pos_embed"):
        visionssm.load_official(_nano(), state)


@pytest.mark.parametrize("n_patches", [1, 2, 9, 16])
def test_patch_tokens_are_all_but_the_class_token_in_the_middle(n_patches: int) -> None:
    model = timm.create_model("vim_nano_test")
    tokens = torch.arange(n_patches + 1)[None, :, None]
    left = model.patch_tokens(tokens).flatten().tolist()
    assert left == [x for x in range(n_patches + 1) if x != n_patches // 2]

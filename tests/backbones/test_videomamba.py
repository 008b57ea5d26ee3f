"""VideoMamba equals the authors' code, and keeps what is particular to it: one class token, places and moments."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import visionssm
from tests.reference_cases import Case, check_gradients, every_case, find_cases, gradient_norms
from visionssm.backbones import videomamba
from visionssm.backbones.videomamba import VIDEO_CHECKPOINTS, VideoMamba, VideoMambaBackbone
from visionssm.checkpoints import CheckpointError

TOLERANCE = 1e-4
IN_DOUBLE = [case for case in find_cases("VideoMamba") if "grad_norms_f64" in case.data]
EXACT = 1e-6  # of float64 to the recorded float64


def _case_model(case: Case) -> VideoMambaBackbone:
    init = dict(case.meta["init"])
    if "kernel_size" in init:
        init["tubelet_size"] = init.pop("kernel_size")
    if isinstance(init.get("img_size"), list):
        init["img_size"] = tuple(init["img_size"])
    name = re.sub("(_tube2)?(_grad)?$", "", case.data["name"])
    if timm.is_model(name):
        model = timm.create_model(name, **init)
    else:
        model = visionssm.create_video_classifier(name, **init)
    return visionssm.load_official(model, case.state_dict()).eval()


def _stages(model: VideoMambaBackbone, x: Tensor) -> dict[str, Tensor]:
    stream = model.begin(model.patch_embed(x))
    stages = {"tokens": stream.hidden}
    for i, layer in enumerate(model.layers):
        stream = layer(stream)
        stages[f"stage{i}"] = stream.hidden
    stages["pre_logits"] = model.forward_head(model.end(stream), pre_logits=True)
    return {**stages, "output": model.head(stages["pre_logits"])}


@every_case("VideoMamba", slow="small|middle|base|videomamba_(img_)?tiny$")
def test_videomamba_equals_authors(case: Case) -> None:
    model = _case_model(case)
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    with torch.no_grad():
        stages = _stages(model, case.image())
    for name in case.data["outputs"]:
        if not name.endswith("_f64"):
            assert case.relative_error(name, stages[name]) <= TOLERANCE, name
    if "grad_norms" in case.data:
        check_gradients(case, model, videomamba.checkpoint_filter_fn)


@pytest.mark.slow
@pytest.mark.parametrize("case", IN_DOUBLE, ids=[case.path.stem for case in IN_DOUBLE])
def test_videomamba_in_double_precision_equals_authors(case: Case) -> None:
    model = _case_model(case).double()
    stages = _stages(model, case.image().double())
    for name in case.data["outputs"]:
        if name.endswith("_f64"):
            assert case.relative_error(name, stages[name.removesuffix("_f64")]) <= EXACT, name
    (stages["output"] * case.cotangent(stages["output"])).sum().backward()
    norms = gradient_norms(case, model, videomamba.checkpoint_filter_fn, "grad_norms_f64")
    for name, (actual, expected) in norms.items():
        assert actual == pytest.approx(expected, rel=EXACT, abs=EXACT * 1e-2), name


def _nano(**options: Any) -> VideoMamba:
    torch.manual_seed(0)
    return visionssm.create_video_classifier("videomamba_nano", **{"num_classes": 7, **options}).eval()


def _clip(frames: int = 8, height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(2, 3, frames, height, width, generator=torch.Generator().manual_seed(1))


def _randomised(model: VideoMambaBackbone) -> VideoMambaBackbone:
    """With a class token and a table of moments that are not zero."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in ("cls_token", "temporal_pos_embedding"):
                value.normal_(generator=torch.Generator().manual_seed(len(name)))
    return model


def test_tokens_are_the_class_token_and_then_frame_after_frame_with_place_and_moment() -> None:
    model = _randomised(_nano(tubelet_size=2))
    clip = _clip(8, 32, 24)
    place = model.positions((4, 3))
    tokens = model.begin(model.patch_embed(clip)).hidden
    assert tokens.shape == (2, 1 + 4 * 4 * 3, 64)
    torch.testing.assert_close(tokens[:, 0], (model.cls_token[:, 0] + place[:, 0]).expand(2, -1))
    for step, row, column in ((0, 0, 0), (1, 0, 2), (3, 3, 1)):
        patch = clip[:, :, 2 * step : 2 * step + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        content = torch.einsum("bcthw,dcthw->bd", patch, model.patch_embed.proj.weight) + model.patch_embed.proj.bias
        expected = content + place[:, 1 + 3 * row + column] + model.temporal_pos_embedding[:, step]
        torch.testing.assert_close(tokens[:, 1 + 12 * step + 3 * row + column], expected)


def test_blocks_add_the_sum_of_both_directions() -> None:
    model = _nano()
    x = model.begin(model.patch_embed(_clip())).hidden
    for block in model.layers:
        x = x + block.mixer(block.norm(x))
    features = model.forward_features(_clip())
    torch.testing.assert_close(features, model.norm(x))
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features[:, 0])


def test_a_clip_of_one_frame_is_an_image_but_for_its_moment() -> None:
    image = timm.create_model("videomamba_img_nano_test", num_classes=7, embed_dim=64, patch_size=8, img_size=32).eval()
    model = videomamba.start_from_images(_nano(num_frames=1), image.state_dict())
    with torch.no_grad():
        model.head.load_state_dict(image.head.state_dict())
    torch.testing.assert_close(model(_clip(1)), image(_clip(1)[:, :, 0]))


def test_starting_from_images_puts_the_kernel_in_the_middle_and_keeps_the_classifier() -> None:
    image = timm.create_model("videomamba_img_nano_test", embed_dim=64, patch_size=8, img_size=64)
    for tubelet, middle in ((2, 1), (3, 1), (4, 2)):
        model = _nano(tubelet_size=tubelet, num_frames=12)
        head = model.head.weight.clone()
        videomamba.start_from_images(model, {"model": image.state_dict()})
        kernel = model.patch_embed.proj.weight
        torch.testing.assert_close(kernel[:, :, middle], image.patch_embed.proj.weight)
        assert float(kernel.detach().abs().sum((0, 1, 3, 4)).count_nonzero()) == 1
        assert torch.equal(model.head.weight, head)
    with pytest.raises(CheckpointError, match="does not fit VideoMamba"):
        videomamba.start_from_images(_nano(), timm.create_model("vmamba_nano_test").state_dict())


def test_clips_of_another_length_and_size_equal_a_model_resampled_for_them() -> None:
    model, other = _randomised(_nano()), _nano(num_frames=4, img_size=(40, 24))
    visionssm.load_official(other, model.state_dict() | {"pos_embed": model.positions((5, 3)).detach()})
    torch.testing.assert_close(model(_clip(4, 40, 24)), other(_clip(4, 40, 24)))
    halves = model.temporal_pos_embedding.unflatten(1, (4, 2)).mean(2)
    torch.testing.assert_close(other.temporal_pos_embedding, halves)  # linear between the middles of two frames


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((1, 3, 7, 32, 32), "a clip of 7 frames"),
        ((1, 3, 0, 32, 32), "a clip of 0 frames"),
        ((1, 3, 8, 4, 32), "4x32 pixels is smaller than one patch"),
        ((1, 1, 8, 32, 32), r"expected clips of \(B, 3, T, H, W\)"),
        ((1, 3, 32, 32), r"expected clips of \(B, 3, T, H, W\)"),
    ],
)
def test_clips_that_cannot_be_cut_are_refused(shape: tuple[int, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _nano(tubelet_size=2)(torch.zeros(shape))
    with pytest.raises(ValueError, match="uint8"):
        _nano()(torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8))


def test_intermediates_are_what_the_mixers_return_in_space_and_time() -> None:
    model = _nano(tubelet_size=2)
    features, maps = model.forward_intermediates(_clip(8, 32, 16))
    assert [tuple(x.shape) for x in maps] == [(2, 64, 4, 4, 2)] * 4
    stages = _stages(model, _clip(8, 32, 16))
    torch.testing.assert_close(maps[2].flatten(2).mT, stages["stage2"][:, 1:])
    (last,) = model.forward_intermediates(
        _clip(8, 32, 16), indices=1, norm=True, output_fmt="NLC", intermediates_only=True
    )
    torch.testing.assert_close(last, features[:, 1:])
    with pytest.raises(ValueError, match="output_fmt='NCHW'"):
        model.forward_intermediates(_clip(), output_fmt="NCHW")


def test_initialisation_is_the_published_one() -> None:
    model = _nano()
    assert model.temporal_pos_embedding.eq(0).all()
    assert model.cls_token.eq(0).all()
    for block in model.layers:
        for scan in (block.mixer.ahead, block.mixer.back):
            assert (scan.dt_projs_bias == 0).all()
            torch.testing.assert_close(scan.A_logs.exp(), torch.arange(1.0, 17).expand(128, 16))
        assert block.mixer.out_proj.weight.abs().max() <= (128 * 4) ** -0.5
        assert float(block.mixer.in_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert model.no_weight_decay() == {"pos_embed", "cls_token", "temporal_pos_embedding", "*.dt_projs_bias"}


def test_a_published_file_loads_and_its_tables_are_resampled(tmp_path: Path) -> None:
    ours = _randomised(_nano())
    names = {"x_proj_weight": "x_proj.weight", "dt_projs_weight": "dt_proj.weight", "dt_projs_bias": "dt_proj.bias"}
    names |= {"A_logs": "A_log", "Ds": "D"}
    theirs = {}
    for name, value in ours.state_dict().items():
        match = re.fullmatch(r"(layers\.\d+\.mixer)\.(ahead|back)\.(.+)", name)
        if match is not None:
            theirs_name = names.get(match[3], match[3])
            if match[2] == "back":
                theirs_name = re.sub(r"^(conv1d|x_proj|dt_proj|A|D)", r"\1_b", theirs_name)
            name = f"{match[1]}.{theirs_name}"
            value = value[0] if re.search("x_proj|dt_proj", name) else value
        theirs[re.sub(r"^norm\.", "norm_f.", name)] = value
    path = tmp_path / "videomamba.pth"
    torch.save({"module": theirs, "args": argparse.Namespace(lr=1e-3)}, path)
    torch.testing.assert_close(visionssm.load_official(_nano(), path)(_clip()), ours(_clip()))
    other = visionssm.load_official(_nano(img_size=48, num_frames=16), path)
    torch.testing.assert_close(other(_clip(16, 48, 48)), ours(_clip(16, 48, 48)))


def test_checkpoints_are_named_after_their_data_and_frames() -> None:
    assert len(VIDEO_CHECKPOINTS) == 3 * 10 + 4
    names = visionssm.list_video_classifiers("videomamba_middle.k400*", pretrained=True)
    assert "videomamba_middle.k400_mask_f64" in names
    assert VIDEO_CHECKPOINTS["videomamba_small.ssv2_f16_288"].file == "videomamba_s16_ssv2_f16_res224to288.pth"
    with torch.device("meta"):
        model = visionssm.create_video_classifier("videomamba_small.ssv2_f16_288")
    assert (model.num_classes, model.num_frames, model.grid_size) == (174, 16, (18, 18))
    with pytest.raises(ValueError, match="closest: 'videomamba_tiny"):
        visionssm.create_video_classifier("videomamba_tinny")
    with pytest.raises(ValueError, match=r"no checkpoint 'videomamba_nano\.k400_f8'"):
        visionssm.create_video_classifier("videomamba_nano", pretrained=True)


def test_table_of_frames_in_float64_is_resampled_in_float64() -> None:
    table = torch.randn(1, 8, 4, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(table.mT, size=12, mode="linear", align_corners=False).mT
    torch.testing.assert_close(videomamba.resample_steps(table, 12), expected, rtol=0, atol=1e-12)


def test_model_without_a_classifier_starts_from_an_image_model_with_one() -> None:
    image = timm.create_model("videomamba_img_nano_test")
    model = visionssm.create_video_classifier(
        "videomamba_nano", num_classes=0, img_size=64, patch_size=16, embed_dim=48, num_frames=2
    )
    videomamba.start_from_images(model, image.state_dict())
    assert torch.equal(model.norm.weight, image.norm.weight)
    assert torch.equal(model.layers[3].mixer.in_proj.weight, image.layers[3].mixer.in_proj.weight)

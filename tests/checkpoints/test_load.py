"""Strict loading, and conversion to this package's names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.checkpoints.files import (
    NAME,
    assert_holds,
    authors_state,
    saved,
    write,
)
from tools import convert_checkpoint
from visionssm.checkpoints import (
    CheckpointError,
    create_official,
    load_official,
    save_converted,
)
from visionssm.checkpoints.fitting import check_values
from visionssm.prediction import load_predictor


def altered(change: str) -> dict[str, Tensor]:
    state = dict(authors_state())
    if change == "missing":
        del state["patch_embed.0.bias"]
    elif change == "unexpected":
        state["layers.9.extra"] = torch.ones(1)
    else:
        state["patch_embed.2.weight"] = torch.ones(5)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"1 missing: patch_embed\.0\.bias"),
        ("unexpected", r"1 unexpected: layers\.9\.extra"),
        ("mis-shaped", r"1 mis-shaped: patch_embed\.2\.weight is \(12,\) in the model and \(5,\) in the file"),
    ],
)
def test_any_difference_is_an_error_and_leaves_the_model_unchanged(change: str, message: str) -> None:
    model = timm.create_model(NAME)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_official(model, altered(change))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_variant_that_the_checkpoint_fits_is_named() -> None:
    with torch.device("meta"):
        state = timm.create_model("vmamba_tiny_s1l8").state_dict()
    with pytest.raises(CheckpointError, match="it fits vmamba_tiny_s1l8"):
        load_official(timm.create_model(NAME), state)


def test_other_class_count_is_explained() -> None:
    with pytest.raises(CheckpointError, match=r"7 classes: build the model with num_classes=7"):
        load_official(timm.create_model(NAME), authors_state(num_classes=7))


def test_other_channel_count_is_explained() -> None:
    with pytest.raises(CheckpointError, match=r"3 input channels: build the model with in_chans=3"):
        load_official(timm.create_model(NAME, in_chans=1), authors_state())


def test_checkpoint_of_another_family_is_called_that() -> None:
    state = timm.create_model("test_efficientnet").state_dict()
    with pytest.raises(CheckpointError, match="another family or code base"):
        load_official(timm.create_model(NAME), state)


def test_one_by_one_convolutions_of_older_files_are_accepted() -> None:
    state = authors_state()
    key = "layers.0.blocks.0.op.in_proj.weight"
    model = load_official(timm.create_model(NAME), {**state, key: state[key][:, :, None, None]})
    assert_holds(model, state)


def test_model_is_built_with_the_class_count_of_the_checkpoint() -> None:
    model = create_official(NAME, {"model": authors_state(num_classes=7)})
    assert model.num_classes == 7
    assert_holds(model, authors_state(num_classes=7))


def test_unknown_variant_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'vmamba_gigantic' is not registered; similar: .*vmamba"):
        create_official("vmamba_gigantic", {})


def test_converted_file_loads_through_timm_and_strictly(tmp_path: Path) -> None:
    path = save_converted(create_official(NAME, authors_state(5)), tmp_path / "folder" / "nano.safetensors")
    overlay = {"file": str(path)}
    assert_holds(timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay), authors_state(5))
    assert_holds(load_official(timm.create_model(NAME), path), authors_state(5))
    assert [file.name for file in path.parent.iterdir()] == ["nano.safetensors"]


def test_failed_conversion_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "nano.safetensors", b"old")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_converted(timm.create_model(NAME), path)
    assert [file.name for file in tmp_path.iterdir()] == ["nano.safetensors"]
    assert path.read_bytes() == b"old"


UNFIT = {
    "int8": (lambda x: x.to(torch.int8), r"torch\.int8, where the model has torch\.float32"),
    "bool": (lambda x: x > 0, r"torch\.bool, where"),
    "complex": (lambda x: x.to(torch.complex64), r"torch\.complex64, where"),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), r"torch\.float8_e4m3fn, where"),
    "too large": (lambda x: x.double().fill_(1e300), r"1e\+300, which torch\.float32 cannot hold"),
    "not a number": (lambda x: x.clone().fill_(float("nan")), "24 values that are NaN or infinite, of 24"),
    "infinite": (lambda x: x.clone().index_fill(0, torch.tensor([1]), float("inf")), "1 values that are NaN"),
    "sparse": (lambda x: x.to_sparse(), "is sparse; weights must be ordinary"),
    "quantised": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "is quantised"),
    "nested": (lambda x: torch.nested.nested_tensor([x]), "is nested"),
    "meta": (lambda x: x.to("meta"), "has no values"),
    "a list": (lambda x: x.tolist(), "hold no tensor"),
    "none": (lambda x: None, "hold no tensor"),
}


@pytest.mark.filterwarnings("ignore")  # of PyTorch, on what it deprecates
@pytest.mark.parametrize("way", ["dictionary", "file", "pretrained"])
@pytest.mark.parametrize("kind", sorted(UNFIT))
def test_weights_of_another_kind_than_the_models_are_refused_by_name(kind: str, way: str, tmp_path: Path) -> None:
    change, message = UNFIT[kind]
    model = timm.create_model(NAME)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {"model": {**authors_state(), "patch_embed.0.bias": change(authors_state()["patch_embed.0.bias"])}}
    message = message.replace("24", str(before["patch_embed.0.bias"].numel()))
    if kind == "meta" and way != "dictionary":
        message = r"without values \(of the meta device\)"
    source: Any = state if way == "dictionary" else write(tmp_path / "file.pth", saved(state))
    if way == "pretrained":
        with pytest.raises(CheckpointError, match=message):
            timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(source)})
        return
    with pytest.raises(CheckpointError, match=message):
        load_official(model, source)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_half_precision_and_double_weights_are_what_they_were() -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        state = {key: value.to(kind) for key, value in authors_state().items()}
        assert_holds(load_official(timm.create_model(NAME), state), {k: v.float() for k, v in state.items()})
    with pytest.raises(CheckpointError, match=r"70000|7e\+04"):
        load_official(timm.create_model(NAME).half(), {k: v * 0 + 7e4 for k, v in authors_state().items()})


def test_model_without_memory_is_refused() -> None:
    with torch.device("meta"):
        model = timm.create_model(NAME)
    with pytest.raises(CheckpointError, match="built on the meta device"):
        load_official(model, authors_state())


def trained_file(folder: Path, **arguments: Any) -> tuple[Path, dict[str, Tensor]]:
    """A classifier's file as `tools/train.py` writes it, and its weights."""
    torch.manual_seed(9)
    state = {key: torch.randn_like(x) for key, x in timm.create_model(NAME, **arguments).state_dict().items()}
    content = {"meta": {"epoch": 3}, "state_dict": {f"model.{key}": value for key, value in state.items()}}
    return write(folder / "best.pth", saved(content)), state


def test_file_of_training_loads_by_every_way_that_a_published_one_does(tmp_path: Path) -> None:
    path, state = trained_file(tmp_path, num_classes=10, in_chans=1)
    options: dict[str, Any] = {"num_classes": 10, "in_chans": 1}
    models = [
        load_official(timm.create_model(NAME, **options), path),
        create_official(NAME, path),
        timm.create_model(NAME, checkpoint_path=str(path), **options),
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options),
    ]
    for model in models:
        torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    assert convert_checkpoint.main([str(path), str(tmp_path / "best.safetensors"), "--model", NAME]) == 0
    torch.testing.assert_close(load_file(tmp_path / "best.safetensors"), state, rtol=0, atol=0)


@pytest.mark.parametrize("head", ["ten classes", "no classifier", "no head"])
def test_file_of_other_classes_or_without_a_head_gives_a_backbone(tmp_path: Path, head: str) -> None:
    path, state = trained_file(tmp_path, num_classes=10 if head == "ten classes" else 0)
    if head == "no head":
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
        path = write(path, saved(state))
    options: dict[str, Any] = {"features_only": True, "out_indices": (0, 2)}
    for model in (
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options),
        load_official(timm.create_model(NAME, **options), path),
        timm.create_model(NAME, checkpoint_path=str(path), **options),
    ):
        weights = {key.removeprefix("model."): value for key, value in model.state_dict().items()}
        assert len(weights) < len(state)
        torch.testing.assert_close(weights, {key: state[key] for key in weights}, rtol=0, atol=0)
    if head != "no head":
        headless = load_official(timm.create_model(NAME, num_classes=0), path)
        torch.testing.assert_close(dict(headless.state_dict()), {k: state[k] for k in headless.state_dict()})


def test_backbone_file_that_lacks_a_stage_is_refused(tmp_path: Path) -> None:
    _, state = trained_file(tmp_path)
    path = write(tmp_path / "cut.pth", saved({k: v for k, v in state.items() if not k.startswith("layers.1.")}))
    with pytest.raises(CheckpointError, match=r"missing: layers\.1\."):
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, features_only=True)


def test_feature_maps_recompute_their_blocks_when_asked_to() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 32, 32)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(1)
        model = timm.create_model(NAME, features_only=True)
        model.set_grad_checkpointing(recompute)
        assert model.model.layers[0].grad_checkpointing is recompute
        sum(level.square().mean() for level in model(image)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_converted_file_of_training_says_what_it_is_of(tmp_path: Path) -> None:
    path, state = trained_file(tmp_path, num_classes=2)
    about = {
        "task": "classification",
        "model": {"name": NAME, "num_classes": 2},
        "classes": ["cat", "dog"],
        "input": None,
    }
    content = {"meta": {"visionssm": about}, "state_dict": {f"model.{key}": value for key, value in state.items()}}
    write(path, saved(content))
    assert convert_checkpoint.main([str(path), str(tmp_path / "best.safetensors")]) == 0
    predictor = load_predictor(tmp_path / "best.safetensors")
    torch.testing.assert_close(dict(predictor.model.state_dict()), state, rtol=0, atol=0)
    assert {name for name, _ in predictor([Image.new("RGB", (40, 30))])[0].best} == {"cat", "dog"}
    write(path, saved({"model": state}))
    assert convert_checkpoint.main([str(path), str(tmp_path / "bare.safetensors")]) == 2
    assert not (tmp_path / "bare.safetensors").exists()


def test_a_count_of_steps_may_have_been_averaged_with_the_weights_but_is_a_number() -> None:
    norm = torch.nn.BatchNorm1d(2)
    check_values({"num_batches_tracked": torch.tensor(3.5)}, norm, "file")
    for wrong in (float("nan"), float("inf"), 1e300):
        with pytest.raises(CheckpointError, match=r"'num_batches_tracked' holds numbers that torch\.int64 cannot hold"):
            check_values({"num_batches_tracked": torch.tensor(wrong, dtype=torch.float64)}, norm, "file")

"""Swin-UMamba is the authors' with both decoders, and starts from VMamba's weights as theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import visionssm
from tests.heads.medical.recorded import check_case
from tests.heads.medical.test_vmunet import old_style_vmamba
from tests.reference_cases import Case, every_case
from visionssm.checkpoints import CheckpointError
from visionssm.heads.medical import SwinUMamba, SwinUMambaD
from visionssm.heads.medical.swinumamba import checkpoint_filter_fn

Network = SwinUMamba | SwinUMambaD


def case_model(case: Case) -> Network:
    name = case.data["name"].removesuffix("_grad").removesuffix("_nods")
    # Deep supervision wants the training mode, in which stochastic depth is active.
    model = visionssm.create_segmenter(name, **case.meta["init"])
    assert isinstance(model, Network)
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    return visionssm.load_official(model, case.state_dict())


def taps(model: Network) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {f"stage{i}": stage.blocks for i, stage in enumerate(model.encoder.stages)}
    if isinstance(model, SwinUMambaD):
        modules |= {f"decoder{i}": blocks for i, blocks in enumerate(model.decoder.stages)}
        return modules | {"decoder3": model.decoder.expand_layers[3]}
    modules |= {"stem": model.stem_norm, "decoder1": model.decoder.last}
    return modules | {f"decoder{6 - i}": up for i, up in enumerate(model.decoder.ups)}


@every_case("Swin-UMamba", slow=".*")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_network_equals_authors(case: Case, dtype: torch.dtype) -> None:
    model = case_model(case)
    double = dtype == torch.float64
    check_case(
        case,
        model,
        taps(model),
        checkpoint_filter_fn,
        dtype=dtype,
        output_tolerance=1e-6 if double else 1e-4,
        gradient_tolerance=1e-6 if double else 1e-2,
        channels_last="(stage|decoder)" if isinstance(model, SwinUMambaD) else "stage",
    )


def test_parameters_of_colour_networks_are_as_counted() -> None:
    with torch.device("meta"):
        models = [visionssm.create_segmenter(f"swin_umamba{d}", in_chans=3, num_classes=7) for d in ("", "_d")]
    assert [sum(p.numel() for p in model.parameters()) for model in models] == [59_889_964, 27_495_388]


@pytest.mark.parametrize(
    ("name", "in_chans", "kept"),
    [
        ("swinumamba_nano", 3, {"0.weight", "0.bias", "2.weight"}),
        ("swinumamba_d_nano", 3, set()),
        ("swinumamba_d_nano", 1, {"0.weight", "0.bias", "2.weight", "2.bias"}),
    ],
)
def test_encoder_starts_from_vmamba(name: str, in_chans: int, kept: set[str], tmp_path: Path) -> None:
    weights = old_style_vmamba((2, 1, 1, 2))
    torch.save({"model": weights}, tmp_path / "vmamba.pth")
    arguments = {"in_chans": in_chans, "dim": 24, "depths": (2, 1, 1, 2)}
    torch.manual_seed(0)
    fresh = visionssm.create_segmenter(name, **arguments).state_dict()
    torch.manual_seed(0)
    model = visionssm.create_segmenter(name, **arguments, pretrained_encoder=tmp_path / "vmamba.pth")
    state = model.state_dict()
    ours = visionssm.backbones.vmamba.checkpoint_filter_fn(weights, model.encoder)  # type: ignore[attr-defined]
    kept = {f"encoder.patch_embed.{key}" for key in kept}
    for key, value in state.items():
        started = key.startswith("encoder.") and key not in kept
        assert torch.equal(value, ours[key.removeprefix("encoder.")] if started else fresh[key]), key


def test_encoder_does_not_start_from_a_vmamba_of_other_depths() -> None:
    model = visionssm.create_segmenter("swinumamba_d_nano", dim=24)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"nothing was loaded(.|\n)*vmamba_v0_tiny"):
        model.load_encoder(old_style_vmamba((2, 1, 1, 2)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "scales"), [("swinumamba_nano", (1, 2, 4, 8)), ("swinumamba_d_nano", (1, 4, 8, 16))])
def test_deep_supervision_gives_four_resolutions_in_training_only(name: str, scales: tuple[int, ...]) -> None:
    model = visionssm.create_segmenter(name, num_classes=3)
    x = torch.randn(1, 1, 64, 32)
    assert [tuple(level.shape) for level in model(x)] == [(1, 3, 64 // s, 32 // s) for s in scales]
    assert isinstance(model.eval()(x), Tensor)


def test_stochastic_depth_falls_from_the_deepest_blocks() -> None:
    model = visionssm.create_segmenter("swin_umamba_d")
    rates = [round(m.drop_prob, 3) for name, m in model.named_modules() if name.endswith("drop_path")]
    assert rates[14:] == [0.2, 0.2, 0.16, 0.12, 0.08, 0.04, 0.0]
    assert rates[:2] == [0.0, 0.014]


def test_depths_of_another_number_of_stages_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"depths=\(1, 1\) must be four positive numbers"):
        visionssm.create_segmenter("swinumamba_nano", depths=(1, 1))

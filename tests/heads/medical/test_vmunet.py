"""VM-UNet is the authors', starts from VMamba's weights, and its layers are as written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.layers import DropPath

import visionssm
from tests.heads.medical.u_cases import case_model, check_gradient_norms, check_outputs, taps
from tests.reference_cases import Case, every_case
from visionssm.checkpoints import CheckpointError
from visionssm.heads.medical.vmunet import PatchExpanding, VMUNet


@every_case("VM-UNet", slow="vmunet_(isic|synapse|default)$")
def test_network_equals_authors_in_single_precision(case: Case) -> None:
    model = case_model(case, case.data["name"].removesuffix("_grad"), torch.float32)
    with torch.set_grad_enabled("grad_norms" in case.data):
        found = taps(model, case.image())
        check_outputs(case, found, "", 1e-4)
    if "grad_norms" in case.data:
        check_gradient_norms(case, model, found["output"], "grad_norms", 2e-4)


@every_case("VM-UNet", slow="")
def test_network_equals_authors_in_double_precision(case: Case) -> None:
    model = case_model(case, case.data["name"].removesuffix("_grad"), torch.float64)
    with torch.set_grad_enabled("grad_norms" in case.data):
        found = taps(model, case.image().double())
        check_outputs(case, found, "_f64", 1e-6)
    if "grad_norms_f64" in case.data:
        check_gradient_norms(case, model, found["output"], "grad_norms_f64", 1e-6)


def test_channels_of_an_expanded_pixel_are_rows_then_columns_then_channels() -> None:
    layer = PatchExpanding(2, factor=2, growth=4)
    layer.norm = torch.nn.Identity()  # type: ignore[assignment]
    layer.expand = torch.nn.Identity()  # type: ignore[assignment]
    y = layer(torch.arange(8.0).view(1, 1, 1, 8))  # (row, column, channel) of the cell in the order of the numbers
    assert y[0].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_grey_images_are_repeated_to_three_channels() -> None:
    torch.manual_seed(0)
    grey = visionssm.create_segmenter("vmunet_nano", in_chans=1).eval()
    colour = visionssm.create_segmenter("vmunet_nano", in_chans=3).eval()
    colour.load_state_dict(grey.state_dict())
    image = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(grey(image), colour(image.expand(-1, 3, -1, -1)))


def old_style_vmamba(depths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Weights of a small VMamba under the names of its first files, with the norm and head of the classifier."""
    from visionssm.backbones.vmamba import V0, VMamba

    torch.manual_seed(1)
    model = VMamba(depths=depths, dim=24, generation=V0, ssm_ratio=2.0, d_state=16, num_classes=10)
    renamed = {}
    for name, value in model.state_dict().items():
        name = name.replace("patch_embed.0.", "patch_embed.proj.").replace("patch_embed.2.", "patch_embed.norm.")
        name = name.replace(".norm.", ".ln_1.") if ".blocks." in name else name
        renamed[
            name.replace(".op.", ".self_attention.").replace("head.norm.", "norm.").replace("head.fc.", "head.")
        ] = value
    return renamed


def test_encoder_is_copied_and_decoder_gets_it_in_reverse(tmp_path: Path) -> None:
    weights = old_style_vmamba((2, 2, 3, 2))
    torch.save({"model": weights}, tmp_path / "vmamba.pth")
    torch.manual_seed(0)
    fresh = visionssm.create_segmenter("vmunet_nano", decoder_depths=(2, 2, 1, 1)).state_dict()
    torch.manual_seed(0)
    model = visionssm.create_segmenter(
        "vmunet_nano", decoder_depths=(2, 2, 1, 1), pretrained_encoder=tmp_path / "vmamba.pth"
    )
    state = model.state_dict()
    for stage in range(4):
        part = "blocks.0.self_attention.in_proj.weight"
        theirs = weights[f"layers.{stage}.{part}"]
        assert torch.equal(state[f"encoder.{stage}.blocks.0.op.in_proj.weight"], theirs)
        assert torch.equal(state[f"decoder.{3 - stage}.blocks.0.op.in_proj.weight"], theirs)
    assert torch.equal(state["decoder.1.blocks.1.norm.weight"], weights["layers.2.blocks.1.ln_1.weight"])
    assert torch.equal(state["encoder.0.downsample.reduction.weight"], weights["layers.0.downsample.reduction.weight"])
    assert torch.equal(state["patch_embed.0.weight"], weights["patch_embed.proj.weight"])
    for name in ("final_up.expand.weight", "final_conv.weight", "decoder.1.upsample.expand.weight"):
        assert torch.equal(state[name], fresh[name])


def test_encoder_refuses_weights_of_too_few_blocks_and_stays_as_it_was() -> None:
    model = visionssm.create_segmenter("vmunet_nano", depths=(1, 1, 2, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"encoder\.2\.blocks\.1"):
        model.load_encoder({"model": old_style_vmamba((1, 1, 1, 1))})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "weights",
    [{"layers.x": torch.ones(1)}, {"patch_embed.proj.weight": torch.ones(24, 5, 4, 4)}, {"other": torch.ones(1)}],
)
def test_encoder_refuses_weights_of_another_network(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match="cannot start from these weights"):
        visionssm.create_segmenter("vmunet_nano", pretrained_encoder=weights)


def test_channels_of_the_stem_are_adapted_to_other_images() -> None:
    weights = old_style_vmamba((1, 1, 1, 1))
    model = visionssm.create_segmenter("vmunet_nano", in_chans=4, pretrained_encoder=weights)
    assert model.get_parameter("patch_embed.0.weight").shape == (24, 4, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": (1, 1)}, "depths"),
        ({"dim": 6}, "dim"),
        ({"num_classes": 0}, "num_classes"),
        ({"in_chans": 0}, "in_chans"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        visionssm.create_segmenter("vmunet_nano", **arguments)  # type: ignore[arg-type]


def test_blocks_drop_more_towards_the_middle() -> None:
    model = VMUNet(dim=8, depths=(1, 2), decoder_depths=(2, 1), drop_path_rate=0.2)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.2, 0.1, 0])

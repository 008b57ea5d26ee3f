"""Pose estimators: the authors' cases, sizes, files, the blocks' differences to the classifier's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import visionssm
from tests.reference_cases import Case, check_gradients, every_case, find_cases
from visionssm.backbones.hrvmamba import Block
from visionssm.heads.pose import VARIANTS, PoseNetwork, create_pose, list_poses
from visionssm.heads.pose.heatmap import PoseBlock

TOLERANCE = 1e-4
NANO = "hrvmamba_nano_pose"


def _of_case(case: Case) -> PoseNetwork:
    name = case.data["name"].removesuffix("_grad").removesuffix("_pose")
    model = create_pose(f"{name}_pose_256x192")
    return visionssm.load_official(model, case.state_dict()).eval()


@every_case("HRVMamba for poses", slow=".")
def test_heat_maps_are_the_authors(case: Case) -> None:
    model = _of_case(case)
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    with torch.no_grad():
        assert case.relative_error("heatmap", model(case.image())) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in find_cases("HRVMamba for poses") if "grad_norms" in case.data])
def test_gradients_are_the_authors(case: Case) -> None:
    check_gradients(case, _of_case(case), PoseNetwork.checkpoint_filter_fn)


@pytest.mark.parametrize("name,millions", [("tiny", 2.15), ("small", 8.03), ("base", 47.10)])
@pytest.mark.parametrize("size,sigma", [((256, 192), 2.0), ((384, 288), 3.0)])
def test_variants_have_the_published_parameters(
    name: str, millions: float, size: tuple[int, int], sigma: float
) -> None:
    with torch.device("meta"):
        model = create_pose(f"hrvmamba_{name}_pose_{size[0]}x{size[1]}")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6, abs=5e3)
    assert model.crop_size == size
    assert model.sigma == sigma


def test_names_are_found_and_published_files_have_a_page() -> None:
    assert len(list_poses()) == 7
    assert list_poses("*tiny*") == [f"hrvmamba_tiny_pose_{x}" for x in ("256x192", "384x288")]
    assert all((variant.ap is None) == (variant.manual_url is None) for variant in VARIANTS.values())
    with pytest.raises(ValueError, match=r"drive\.google\.com/file/d/1cj6VPnSiyCDQHuDEZIIytyEQO-Xr-pPO"):
        create_pose("hrvmamba_tiny_pose_256x192", pretrained=True)
    with pytest.raises(ValueError, match="choose one of hrvmamba_base_pose_256x192"):
        create_pose("hrvmamba_huge_pose")
    with pytest.raises(ValueError, match="drop_rate=1"):
        create_pose(NANO, drop_rate=1)
    with pytest.raises(ValueError, match="num_keypoints"):
        create_pose(NANO, num_keypoints=0)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
def test_any_multiple_of_32_gives_maps_of_a_quarter(size: tuple[int, int]) -> None:
    model = create_pose(NANO, num_keypoints=5).eval()
    assert model(torch.zeros(2, 3, *size)).shape == (2, 5, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize("shape", [(1, 3, 48, 64), (1, 3, 64, 70), (1, 3, 0, 32), (3, 64, 64), (1, 1, 64, 64)])
def test_other_crops_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"multiples of 32|too small|expected"):
        create_pose(NANO)(torch.zeros(shape))


def test_every_parameter_learns_from_batch_one() -> None:
    model = create_pose(NANO).train()
    model(torch.randn(1, 3, 64, 64)).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_deformable_convolutions_start_at_zero_and_linear_layers_as_pytorchs() -> None:
    model = create_pose(NANO)
    for name, module in model.named_modules():
        if name.endswith("offset_mask"):
            assert not module.weight.any()
            assert not module.bias.any()
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            assert bound * 0.8 < module.weight.abs().max() <= bound


def test_nothing_is_dropped_from_the_multi_scale_convolutions() -> None:
    block: Any = PoseBlock(8, offset_conv=False, drop_path=0.9, drop_rate=0.5).train()
    nn.init.zeros_(block.op.out_proj.weight)
    nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(block.mlp.fc2.bias)
    x = torch.randn(16, 4, 4, 8)
    torch.testing.assert_close(block.transform(x), x + block.multi_scale(x))
    classifier = Block(8, offset_conv=False, drop_path=0.9).train()
    classifier.load_state_dict(block.state_dict())
    dropped = (classifier.transform(x) == x).flatten(1).all(1)
    assert dropped.any()


@torch.no_grad()
def test_scan_and_mlp_have_dropout() -> None:
    torch.manual_seed(0)
    block: Any = PoseBlock(8, offset_conv=False, drop_path=0.0, drop_rate=0.25)
    for conv in block.conv2d:
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    x = torch.randn(8, 8, 8, 8)
    nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(block.mlp.fc2.bias)
    scanned = block.eval().transform(x) - x
    ratio = (block.train().transform(x) - x) / scanned
    kept = ratio.abs() > 0.5
    assert 0.2 < 1 - kept.float().mean() < 0.3
    torch.testing.assert_close(ratio[kept], torch.full_like(ratio[kept], 4 / 3), rtol=1e-2, atol=1e-2)
    assert block.mlp.drop1.p == 0.25


def test_drop_path_of_the_variant_rises_over_the_blocks() -> None:
    model = create_pose(NANO, drop_path_rate=0.3)
    blocks: list[Any] = [module for module in model.modules() if isinstance(module, PoseBlock)]
    rates = [block.drop_path[1].drop_prob for block in blocks]
    assert min(rates) == 0
    assert max(rates) == pytest.approx(0.3)


def test_classifiers_file_starts_the_backbone(tmp_path: Path) -> None:
    classifier = timm.create_model("hrvmamba_nano_test", num_classes=7, **(VARIANTS[NANO].changes or {}), block=Block)
    path = tmp_path / "classifier.pth"
    torch.save({"model": classifier.state_dict()}, path)
    model = create_pose(NANO, pretrained_backbone=path)
    state = classifier.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.backbone.state_dict().items())
    with pytest.raises(ValueError, match=r"drive\.google\.com"):
        create_pose("hrvmamba_tiny_pose_256x192", pretrained_backbone=True)


def test_files_in_the_mm_framework_layout_are_loaded_and_others_named(tmp_path: Path) -> None:
    model = create_pose(NANO, num_keypoints=5)
    state = {**model.state_dict(), "data_preprocessor.mean": torch.zeros(3)}
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, tmp_path / "best.pth")
    loaded = create_pose(NANO, num_keypoints=5, pretrained=tmp_path / "best.pth")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name]), name
    with pytest.raises(ValueError, match=r"final_layer.weight is \(17, 16, 1, 1\) in the model and \(5, 16, 1, 1\)"):
        create_pose(NANO, pretrained=tmp_path / "best.pth")


def test_other_backbones_give_heat_maps_too() -> None:
    model = PoseNetwork(timm.create_model("vmamba_nano_test"), num_keypoints=4)
    assert model(torch.randn(1, 3, 64, 96)).shape == (1, 4, 16, 24)
    with pytest.raises(ValueError, match="stride 16"):
        PoseNetwork(timm.create_model("vim_nano_test"), num_keypoints=4)


@torch.no_grad()
def test_bfloat16_is_finite_and_near() -> None:
    model, crops = create_pose(NANO).eval(), torch.randn(1, 3, 64, 64)
    nn.init.normal_(model.head.final_layer.weight)
    exact = model(crops)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(crops).float()
    assert rough.isfinite().all()
    assert (rough - exact).norm() < 0.1 * exact.norm()

"""What the pictures are drawn from, checked where the right answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import visionssm
from visionssm import visualization as v

FAMILIES = (*visionssm.list_models("*_nano_test"), "test_mambaout", "test_convnext")


def nano(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5).eval()


class _Conv(nn.Module):
    """One 3×3 convolution: the receptive field is the 3×3 neighbourhood."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        nn.init.ones_(self.conv.weight)

    def forward_intermediates(self, x: Tensor, intermediates_only: bool = True) -> list[Tensor]:
        return [self.conv(x)]


def test_receptive_field_of_one_convolution_is_its_kernel() -> None:
    field = v.effective_receptive_field(_Conv(), torch.randn(2, 3, 8, 10))
    expected = torch.zeros(8, 10)
    expected[3:6, 4:7] = 1
    torch.testing.assert_close(field, expected)
    assert v.contributing_area(field, 1.0) == 9 / 80


def test_contributing_area_is_the_smallest_that_suffices() -> None:
    field = torch.tensor([[8.0, 1.0], [1.0, 0.0]])
    assert v.contributing_area(field, 0.5) == 0.25
    assert v.contributing_area(field, 0.85) == 0.5


def test_receptive_field_of_four_routes_covers_the_image() -> None:
    field = v.effective_receptive_field(nano("vmamba_nano_test"), torch.randn(1, 3, 64, 48))
    assert field.shape == (64, 48)
    assert bool((field > 0).all())


def test_receptive_field_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="images is empty"):
        v.effective_receptive_field(_Conv(), torch.empty(0, 3, 8, 8))


def test_receptive_field_of_a_constant_model_is_refused() -> None:
    model = _Conv()
    nn.init.zeros_(model.conv.weight)
    with pytest.raises(ValueError, match="gradient of the centre is zero"):
        v.effective_receptive_field(model, torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("name", FAMILIES)
def test_activation_map_fits_the_image_and_depends_on_the_class(name: str) -> None:
    model, image = nano(name), torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    predicted = int(model(image).argmax())
    cam, index = v.class_activation_map(model, image)
    assert index == predicted
    maps = [v.class_activation_map(model, image, k)[0] for k in range(5)]
    torch.testing.assert_close(maps[predicted], cam)
    assert all(m.shape == (64, 96) and bool(torch.isfinite(m).all()) and float(m.min()) >= 0 for m in maps)
    assert any(float(m.max()) == pytest.approx(1) for m in maps)
    assert any(not torch.equal(m, cam) for m in maps)
    assert all(p.grad is None for p in model.parameters())


def test_activation_map_of_a_linear_head_is_the_published_formula() -> None:
    """With pooling and a linear classifier, Grad-CAM is the map weighted by the class's row (CAM, Zhou et al. 2016)."""
    model, image = nano("vmamba_nano_test"), torch.randn(1, 3, 64, 64)
    model.head.norm = nn.Identity()  # type: ignore[union-attr]
    with torch.no_grad():
        features = model.forward_features(image)  # type: ignore[operator]
    weighted = (features @ model.get_classifier().weight[2]).clamp(min=0)  # type: ignore[operator]
    expected = torch.nn.functional.interpolate(weighted[None], size=(64, 64), mode="bilinear")[0, 0]
    cam, _ = v.class_activation_map(model, image, 2)
    torch.testing.assert_close(cam, (expected / expected.max()).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("class_index", [-1, 5])
def test_activation_map_of_a_class_that_is_none_is_refused(class_index: int) -> None:
    with pytest.raises(ValueError, match="0 to 4"):
        v.class_activation_map(nano("vmamba_nano_test"), torch.randn(1, 3, 64, 64), class_index)


def test_model_without_a_classifier_has_no_activation_map() -> None:
    model = timm.create_model("vim_nano_test", num_classes=0).eval()
    with pytest.raises(ValueError, match="no classifier"):
        v.class_activation_map(model, torch.randn(1, 3, 64, 64))


def test_stage_maps_are_named_for_a_model_that_has_none() -> None:
    with pytest.raises(ValueError, match="Identity has no forward_intermediates"):
        v.stage_maps(nn.Identity(), torch.randn(1, 3, 8, 8))


def test_principal_colours_separate_two_regions() -> None:
    features = torch.randn(6, 1, 1).expand(6, 4, 8).clone()
    features[:, :, 4:] += 10 * torch.randn(6, 1, 1)
    colours = v.principal_colours(features + 0.01 * torch.randn(6, 4, 8))
    assert colours.shape == (4, 8, 3)
    assert float((colours[:, :4, 0].mean() - colours[:, 4:, 0].mean()).abs()) > 0.8


@pytest.mark.parametrize("channels", [1, 2])
def test_principal_colours_take_maps_of_few_channels(channels: int) -> None:
    assert bool(torch.isfinite(v.principal_colours(torch.randn(channels, 3, 1))).all())


@pytest.mark.parametrize("name", sorted(v.ROUTES))
def test_every_route_can_be_drawn(name: str) -> None:
    table = v.route_table(name, 3, 4)
    figure = v.figure_of_routes(table, 3, 4, title=name)
    assert len(figure.axes) == table.shape[0]


def test_option_reaches_the_table() -> None:
    assert v.route_table("atrous", 6, 6, 3).shape[0] == 9
    assert v.route_table("window", 6, 6, 3).shape == (1, 4, 9)


@pytest.mark.parametrize(
    "name, option, message", [("teleport", None, "no route"), ("ss2d", 2, "option=2"), ("atrous", 0, "option=0")]
)
def test_unusable_route_is_named(name: str, option: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        v.route_table(name, 4, 4, option)


def test_animation_has_a_frame_a_step(tmp_path: Path) -> None:
    path = tmp_path / "raster.gif"
    v.save_route_animation(v.route_table("raster", 2, 3), 2, 3, path)
    with Image.open(path) as image:
        assert image.n_frames == 6  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == [path]


def test_figure_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    figure = v.figure_of_cam(torch.rand(8, 8, 3), torch.rand(8, 8), title="cat")
    with pytest.raises(ValueError, match=r"\.png"):
        v.save(figure, tmp_path / "cam.bmpp")
    assert not list(tmp_path.iterdir())


def test_fields_share_one_scale() -> None:
    figure = v.figure_of_fields({"before": torch.rand(6, 6), "after": torch.rand(6, 6)})
    limits = {axes.images[0].get_clim() for axes in figure.axes if axes.images}
    assert len(limits) == 1
    assert math.isclose(limits.pop()[1], 1)

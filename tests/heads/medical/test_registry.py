"""Networks for medical segmentation are found by name, and wrong names and files are refused."""

from __future__ import annotations

import pytest
import torch

import visionssm
from visionssm.checkpoints import CheckpointError
from visionssm.heads.medical import PUBLISHED, register_segmenter


def test_names_are_sorted_and_match_the_pattern() -> None:
    names = visionssm.list_segmenters()
    assert names == sorted(names)
    assert set(visionssm.list_segmenters("vmunet_*")) == {name for name in names if name.startswith("vmunet_")}
    assert names == sorted(PUBLISHED)


def test_two_networks_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="'vmunet_nano' already"):

        @register_segmenter()
        def vmunet_nano(**changes: object) -> visionssm.heads.medical.Segmenter:  # type: ignore[name-defined]
            raise AssertionError


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'vmunett' is unknown; choose one of .*vmunet_nano"):
        visionssm.create_segmenter("vmunett")


@pytest.mark.parametrize("name", [name for name, cfg in PUBLISHED.items() if cfg.parameters])
def test_parameters_are_as_many_as_published(name: str) -> None:
    with torch.device("meta"):
        model = visionssm.create_segmenter(name)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name].parameters


def test_weights_of_another_network_are_refused_and_change_nothing() -> None:
    model = visionssm.create_segmenter("vmunet_nano")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    other = visionssm.create_segmenter("vmunet_nano", num_classes=3).state_dict()
    with pytest.raises(CheckpointError, match=r"final_conv\.weight"):
        visionssm.load_official(model, other)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_without_known_weights_pretrained_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="vmunet_nano"):
        visionssm.create_segmenter("vmunet_nano", pretrained=True)


@pytest.mark.parametrize("wrong", [0, "3", 2.5, True])
@pytest.mark.parametrize("argument", ["num_classes", "in_chans"])
def test_numbers_that_are_no_counts_are_told(argument: str, wrong: object) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be a whole number, at least 1, got {wrong!r}"):
        visionssm.create_segmenter("vmunet_nano", **{argument: wrong})  # type: ignore[arg-type]


def test_images_of_whole_numbers_are_told() -> None:
    model = visionssm.create_segmenter("vmunet_nano", in_chans=1)
    with pytest.raises(ValueError, match=r"x is torch.uint8, expected floating-point.*x.float\(\)"):
        model(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))

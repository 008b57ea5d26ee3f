"""MONAI takes the networks: its images with metadata, its sliding window, its losses and its bundle configs."""

from __future__ import annotations

import sys

import pytest
import torch

import visionssm
from visionssm.extras import MissingExtraError
from visionssm.integrations.monai import segmenter


def test_bundle_config_and_sliding_window_take_a_network() -> None:
    from monai.bundle import ConfigParser
    from monai.data import MetaTensor

    config = {
        "network": {
            "_target_": "visionssm.integrations.monai.segmenter",
            "name": "umamba_enc2d_nano",
            "in_channels": 1,
            "out_channels": 3,
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32, 32], "overlap": 0.5, "mode": "gaussian"},
    }
    bundle = ConfigParser(config)
    network = bundle.get_parsed_content("network").eval()
    image = MetaTensor(torch.randn(1, 1, 48, 40), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])))
    with torch.inference_mode():
        logits = bundle.get_parsed_content("inferer")(image, network)
        torch.testing.assert_close(network(image), network(image.as_tensor()))
    assert logits.shape == (1, 3, 48, 40)
    assert torch.equal(logits.affine, image.affine)


def test_losses_train_on_images_with_metadata() -> None:
    from monai.data import MetaTensor
    from monai.losses import DeepSupervisionLoss, DiceCELoss

    network = segmenter("umamba_enc2d_nano", in_channels=1, out_channels=3, deep_supervision=True)
    loss = DeepSupervisionLoss(DiceCELoss(softmax=True, to_onehot_y=True))
    loss(network(MetaTensor(torch.randn(1, 1, 16, 16))), torch.randint(3, (1, 1, 16, 16)).float()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_dimensions_and_deep_supervision_that_a_network_has_not_are_errors() -> None:
    with pytest.raises(ValueError, match="spatial_dims=3, but vmunet_nano is for 2"):
        segmenter("vmunet_nano", in_channels=3, out_channels=2, spatial_dims=3)
    with pytest.raises(ValueError, match="vmunet_nano has logits of one resolution only"):
        segmenter("vmunet_nano", in_channels=3, out_channels=2, deep_supervision=True)


def test_without_monai_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        def find_spec(self, name: str, *_: object) -> None:
            if name.split(".")[0] == "monai":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    for name in ("segmamba_nano", "swinumamba_nano"):
        with pytest.raises(MissingExtraError, match=r"monai: pip install 'visionssm\[medical\]'"):
            visionssm.create_segmenter(name)
    assert visionssm.create_segmenter("umamba_enc3d_nano").num_classes == 4

"""MONAI takes the networks: its images with metadata, its sliding window, its losses and its bundle configs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import visionssm
from tests.docs.pages import ROOT
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


def written_pairs(folder: Path) -> None:
    """Six images of 24×20 pixels with a bright box, and masks of it, as the documentation's bundle reads them."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0)
    for n in range(6):
        mask = np.zeros((24, 20), np.uint8)
        mask[4 + n : 14 + n, 3 : 9 + n] = 1
        for name, values in (("images", 120 * mask + noise.integers(0, 60, mask.shape)), ("masks", mask)):
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(folder / f"{name}/{n}.png")


def test_bundle_of_the_documentation_trains_with_monais_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ignite", reason="MONAI's trainers need pytorch-ignite")
    from monai.bundle import ConfigParser, run

    found = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/medical.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    (tmp_path / "train.yaml").write_text(found[1])
    written_pairs(tmp_path)
    monkeypatch.chdir(tmp_path)
    losses: list[float] = []
    step = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        losses.append(sum(float(p.grad.square().sum()) for group in self.param_groups for p in group["params"]))
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    shorter: Any = {"trainer#max_epochs": 3}
    run(config_file="train.yaml", **shorter)
    assert len(losses) == 3 * 3
    assert all(0 < x < float("inf") for x in losses)
    parser = ConfigParser(ConfigParser.load_config_file("train.yaml"))
    trained: Any = parser.get_parsed_content("network")
    trained.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True))
    evaluated = parser.get_parsed_content("inferer")(torch.rand(1, 1, 24, 20), trained.eval())
    assert evaluated.shape == (1, 2, 24, 20)


@pytest.mark.parametrize("name", ["segmamba_nano", "umamba_enc3d_nano"])
def test_sliding_window_takes_networks_of_volumes(name: str) -> None:
    from monai.inferers import SlidingWindowInferer

    network = segmenter(name, in_channels=1, out_channels=2, spatial_dims=3).eval()
    with torch.inference_mode():
        logits: Any = SlidingWindowInferer((16, 16, 16), overlap=0.25)(torch.randn(1, 1, 16, 20, 16), network)
    assert logits.shape == (1, 2, 16, 20, 16)
    assert logits.isfinite().all()


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

"""The benchmark of pose estimators runs, and its peer is timm's network."""

from __future__ import annotations

from typing import Any

import timm
import torch

from visionssm.benchmarks import pose


def test_every_figure_has_a_ratio_and_a_goal() -> None:
    rows = pose.run(seconds=0.01, scale=pose.TINY)
    assert [row["figure"].split(",")[0] for row in rows] == [
        "inference",
        "training step / inference",
        "flip test / single",
        "decoding",
    ]
    for row in rows:
        assert row["ratio"] * row["beside ms"] - row["ms"] < 1e-6 * row["ms"]
        assert row["ms"] > 0
        assert row["goal"] > 0


@torch.no_grad()
def test_peer_is_timms_highest_resolution() -> None:
    torch.manual_seed(0)
    peer = pose.HRNetPose("hrnet_w18_small", num_keypoints=3).eval()
    whole: Any = timm.create_model("hrnet_w18_small").eval()
    missing, unexpected = whole.load_state_dict(peer.body.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith(("incre", "downsamp", "final", "classifier", "stage4")) for name in missing)
    crops = torch.randn(1, 3, 64, 64)
    x = whole.act1(whole.bn1(whole.conv1(crops)))
    expected = whole.stages(whole.act2(whole.bn2(whole.conv2(x))))[0]
    torch.testing.assert_close(peer(crops), peer.head(expected))

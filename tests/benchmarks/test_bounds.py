"""What networks must cost: operators are found by kind, all forms of one compute the same, and rows add up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visionssm.benchmarks import bounds
from visionssm.benchmarks.timing import table
from visionssm.cli.benchmark import make_parser


class _Small(nn.Module):
    """Two equal 1×1 convolutions, a dense, a depth-wise one, a product with and one without a bias, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.dense = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 8, 3, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.first, self.last = nn.Linear(8, 12), nn.Linear(12, 5, bias=False)
        self.norm = nn.LayerNorm(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.dense(self.one(self.one(x))))
        return self.last(self.norm(self.first(x.movedim(1, -1))))


def test_operators_are_found_by_kind_and_all_forms_compute_the_same() -> None:
    calls = bounds.collect(_Small(), torch.rand(1, 3, 16, 16))
    kinds = []
    for name, call, count in calls:
        if name == "native_layer_norm":
            continue
        kind, ways = bounds.forms(name, call)
        kinds += [kind] * count
        expected = torch.as_tensor(call()).flatten().sort().values
        assert len(ways) >= 2
        for way in ways.values():
            found = torch.as_tensor(way()).flatten().sort().values  # forms may have other axes
            torch.testing.assert_close(found, expected)
    assert sorted(kinds) == sorted([bounds.PRODUCTS] * 4 + [bounds.DENSE, bounds.DEPTHWISE])
    assert [count for name, _, count in calls if name == "native_layer_norm"] == [1]


def test_rows_add_up_and_are_compared_with_the_peers() -> None:
    kept: list[int] = []
    pairs = {"vim_nano_test": "test_vit", "hrvmamba_nano_test": "test_vit"}
    peer, *ours = bounds.run(pairs, size=64, seconds=0.02, clock="processor", keep=lambda rows: kept.append(len(rows)))
    assert kept == [1, 2, 3]
    assert (peer["network"], peer["sum / peer's"], peer[bounds.SCANS]) == ("test_vit", None, None)
    assert peer[bounds.ATTENTION] > 0
    for row in ours:
        assert row["sum ms"] == pytest.approx(sum(row[kind] or 0 for kind in bounds.KINDS))
        assert row["sum / peer's"] == pytest.approx(row["sum ms"] / peer["sum ms"])
        assert row[bounds.SCANS] > 0
        assert row["whole ms"] > 0
    assert ours[0][bounds.SUMS] is None
    assert ours[1][bounds.SUMS] > 0
    assert "hrvmamba_nano_test" in table([peer, *ours])
    again = bounds.run(pairs, size=64, done=[peer, *ours], keep=lambda rows: pytest.fail("measured again"))
    assert again == [peer, *ours]


def test_every_pair_can_be_chosen_on_the_command_line() -> None:
    options = make_parser().parse_args(["bounds", "--models", *bounds.PAIRS, "--clock", "processor"])
    assert options.models == list(bounds.PAIRS)

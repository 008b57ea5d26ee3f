"""Networks with another scan in place of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from visionssm.benchmarks import networks
from visionssm.benchmarks.timing import median

NANO = "vmamba_nano_test"


def _outputs(scan: str, name: str = NANO) -> torch.Tensor:
    torch.manual_seed(0)
    model = networks.create(name, 64).eval()
    with torch.inference_mode(), networks.scanning_with(scan):
        result = model(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    assert isinstance(result, torch.Tensor)
    return result


def test_scans_in_pytorch_give_our_numbers_and_the_identity_others() -> None:
    ours = _outputs("ours")
    for scan in ("sequential", "published"):
        torch.testing.assert_close(_outputs(scan), ours, rtol=1e-4, atol=1e-5)
    assert (_outputs("identity") - ours).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["localvim_nano_test", "localvmamba_nano_test", "plainmamba_nano_test"])
def test_networks_of_other_routes_run_without_scans(name: str) -> None:
    assert (_outputs("identity", name) - _outputs("ours", name)).abs().max() > 1e-6  # untrained, they scan little


def test_network_of_ones_choice_is_put_beside_itself_without_scans_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "SWIN", NANO)
    (row,) = networks.run(["localvmamba_nano_test"], seconds=0.1)
    assert row["network"] == "localvmamba_nano_test"
    assert row["ours / identity scan"] > 0.5
    assert row["published layout / ours"] is None


def test_published_layout_has_any_number_of_states() -> None:
    name = "vmamba_v0_tiny"
    torch.testing.assert_close(_outputs("published", name), _outputs("ours", name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("other", ["sequential", "published"])
def test_training_step_with_a_scan_in_pytorch_gives_our_gradients(other: str) -> None:
    gradients = {}
    for scan in ("ours", other):
        torch.manual_seed(0)
        model = networks.create(NANO, 64)
        networks._train(model, torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), scan)
        gradients[scan] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[other], gradients["ours"], rtol=1e-3, atol=1e-6)


def once(runs: Mapping[str, Callable[[], object]], **_: Any) -> dict[str, float]:
    """In the place of medians of many calls."""
    return {name: median(run, seconds=0.0) for name, run in runs.items()}


def test_cost_is_measured_and_drawn_for_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "VMAMBA", NANO)
    monkeypatch.setattr(networks, "SWIN", NANO)
    monkeypatch.setattr(networks, "VIT", NANO)
    monkeypatch.setattr(networks, "medians_in_turn", once)
    rows = networks.cost_of_size((32, 64), seconds=0.1)
    assert [row["size"] for row in rows] == [32, 64]
    assert all(value > 0 for row in rows for value in row.values())
    networks.draw_cost(rows, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_training_takes_memory() -> None:
    taken = networks.training_memory(NANO, "ours", batch=2, size=64)
    assert taken == 0 or taken > 1e6


def test_networks_of_few_scans_are_put_beside_themselves_without_them() -> None:
    name = "mambavision_nano_test"
    assert torch.equal(_outputs("ours", name), _outputs("ours", name))
    assert not torch.equal(_outputs("identity", name), _outputs("ours", name))
    rows = networks.beside_identity({name: "vim_nano_test"}, size=64, seconds=0.01)
    assert [row["pass"] for row in rows] == ["inference, batch 1, 64²", "training step, batch 2, 64²"]
    assert all(row[key] > 0 for row in rows for key in ("ours ms", "ours / identity scan", "ours / peer"))

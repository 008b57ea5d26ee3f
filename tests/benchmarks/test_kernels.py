"""What the kernel benchmark compares computes the same, and the timing takes turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from visionssm.benchmarks.kernels import Inputs, Shape, cores, mambapy, measure, ours, sequential
from visionssm.benchmarks.timing import medians_in_turn, table, write_json

SMALL = [
    Shape("four routes", height=3, width=5, channels=8, d_state=1, dt_rank=2, n_routes=4, batch=2),
    Shape("one route", height=1, width=9, channels=16, d_state=4, dt_rank=3, n_routes=1),
]


@pytest.mark.parametrize("shape", SMALL, ids=lambda s: s.name)
@pytest.mark.parametrize("rival", [sequential, mambapy])
def test_rivals_compute_what_we_compute(shape: Shape, rival: object) -> None:
    ours_in, rival_in = Inputs.random(shape), Inputs.random(shape)
    ours_in.require_grad()
    rival_in.require_grad()
    cotangent = torch.randn(ours_in.u.shape)
    expected, actual = ours(ours_in), rival(rival_in)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(expected, [ours_in.u, ours_in.a, ours_in.weight], cotangent)
    rival_gradients = torch.autograd.grad(actual, [rival_in.u, rival_in.a, rival_in.weight], cotangent)
    torch.testing.assert_close(rival_gradients, gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backward", [False, True])
def test_a_row_holds_ratios_to_every_rival(backward: bool) -> None:
    row = measure(SMALL[0], seconds=0.05, backward=backward)
    assert row["sequential / ours"] > 0
    assert row["mambapy / ours"] > 0
    assert row["ours / exp"] > 0


def test_cores_are_compared_and_left_as_they_were() -> None:
    threads = torch.get_num_threads()
    (row,) = cores((64,), seconds=0.05)
    assert row["one thread / ours"] > 0
    assert torch.get_num_threads() == threads


class Calls:
    """Candidates on a made-up clock: each call takes as long as it is said to take, the first one to compile too."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.now = 0.0

    def candidate(self, name: str, seconds: float, *, compiles: float = 0.0) -> Callable[[], object]:
        def run() -> None:
            self.now += seconds + (0.0 if name in self.names else compiles)
            self.names.append(name)

        return run

    def clock(self) -> float:
        return self.now


def test_candidates_take_turns_and_slow_ones_run_as_seldom_as_can_be() -> None:
    """Once where they have nothing to compile, and twice else: the first call may have compiled something."""
    calls = Calls()
    named = {"a": 0.001, "b": 0.002, "slow": 0.05, "minutes": 250.0}
    candidates = {name: calls.candidate(name, seconds) for name, seconds in named.items()}
    medians = medians_in_turn(candidates, seconds=0.05, clock=calls.clock, once=("minutes", "not measured here"))
    assert calls.names[:5] == ["a", "b", "slow", "minutes", "slow"]
    assert calls.names.count("slow") == 2
    assert calls.names.count("minutes") == 1
    turns = [name for i, name in enumerate(calls.names[5:]) if i == 0 or name != calls.names[i + 4]]
    assert turns[:4] == ["a", "b", "a", "b"]
    assert medians == pytest.approx(named)


def test_a_first_call_that_compiles_is_no_figure() -> None:
    calls = Calls()
    candidates = {
        "quick": calls.candidate("quick", 0.001, compiles=30.0),
        "slow": calls.candidate("slow", 0.05, compiles=30.0),
        "some": calls.candidate("some", 0.002, compiles=0.02),
    }
    medians = medians_in_turn(candidates, seconds=0.05, clock=calls.clock)
    assert medians == pytest.approx({"quick": 0.001, "slow": 0.05, "some": 0.002})
    assert calls.names.count("slow") == 2
    assert calls.names.count("quick") > 3


def test_a_candidate_that_is_called_once_takes_turns_where_it_is_quick() -> None:
    calls = Calls()
    medians = medians_in_turn({"a": calls.candidate("a", 0.001)}, seconds=0.05, clock=calls.clock, once=("a",))
    assert calls.names.count("a") > 3
    assert medians == pytest.approx({"a": 0.001})


def test_table_and_file_hold_every_row(tmp_path: Path) -> None:
    rows = [{"scan": "x", "ratio": 12.345}, {"scan": "y", "ratio": None}]
    text = table(rows)
    assert text.splitlines()[0].split() == ["|", "scan", "|", "ratio", "|"]
    assert "12" in text
    assert "–" in text
    write_json(tmp_path / "sub" / "figures.json", rows)
    written = json.loads((tmp_path / "sub" / "figures.json").read_text())
    assert written["rows"] == rows
    assert written["machine"]["threads"] == torch.get_num_threads()
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["figures.json"]

"""The benchmark of the deformable sum compares forms that compute the same."""

from __future__ import annotations

import pytest
import torch

from visionssm.benchmarks import deformable


def test_both_forms_give_the_same_values_and_gradients() -> None:
    tensors = deformable.inputs((6, 7, 2, 16), 2)
    grad = torch.randn_like(tensors[0])
    both = [(deformable.forward(name, tensors), *deformable.step(name, tensors, grad)) for name in ("cpu", "reference")]
    for ours, definition in zip(*both, strict=True):
        torch.testing.assert_close(ours, definition, rtol=1e-4, atol=1e-4)


def test_every_map_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deformable, "SHAPES", {name: (6, 5, *x[2:]) for name, x in deformable.SHAPES.items()})
    rows = deformable.run(batches=(1,), seconds=0.02)
    assert [row["map"] for row in rows] == list(deformable.SHAPES)
    assert all(value > 0 for row in rows for value in row.values() if isinstance(value, float))

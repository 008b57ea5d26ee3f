"""The layout of maps in memory."""

from __future__ import annotations

import timm
import torch

import visionssm
from visionssm.layers.memory_format import channels_last


def test_maps_have_their_channels_last_in_memory() -> None:
    x = torch.rand(2, 3, 4, 5)
    found = channels_last(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, x)
    assert channels_last(found) is found


def test_programs_for_runtimes_of_core_operators_have_no_memory_format() -> None:
    """ExecuTorch's runtime refuses the permutation of a map that has one."""
    x = torch.rand(2, 3, 4, 5)
    with visionssm.use_backend("export"):
        assert channels_last(x) is x
        assert channels_last(x.to(memory_format=torch.channels_last)).is_contiguous()


def test_a_model_computes_the_same_without_memory_formats() -> None:
    torch.manual_seed(0)
    model, image = timm.create_model("mambavision_nano_test").eval(), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(image)
        with visionssm.use_backend("export"):
            found = model(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

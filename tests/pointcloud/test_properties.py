"""Properties of parts: maps that are mirrored, memory by the length of a group."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionssm.pointcloud.bev import PlainBevNet, ResidualBevNet, seen_from_above
from visionssm.pointcloud.operators.xlstm import mlstm
from visionssm.pointcloud.voxels import Sites


def test_voxels_that_are_mirrored_make_a_mirrored_map() -> None:
    torch.manual_seed(0)
    coords = (torch.rand(2, 2, 6, 9) < 0.3).nonzero()
    x = torch.randn(len(coords), 3)
    for axis, side in ((2, 6), (3, 9)):
        mirrored = coords.clone()
        mirrored[:, axis] = side - 1 - coords[:, axis]
        ours = seen_from_above(x, Sites(mirrored, (2, 6, 9), 2))
        assert torch.equal(ours, seen_from_above(x, Sites(coords, (2, 6, 9), 2)).flip(axis))


def test_map_networks_of_one_resolution_with_mirrored_kernels_give_mirrored_maps() -> None:
    for kind in (PlainBevNet, ResidualBevNet):
        torch.manual_seed(0)
        net = kind(3, layers=(1, 1), strides=(1, 1), channels=(4, 6), up_strides=(1, 1), up_channels=(4, 4)).eval()
        x = torch.randn(1, 3, 8, 11)
        y = net(x)
        for axis in (2, 3):
            mirror(net, axis)
            torch.testing.assert_close(net(x.flip(axis)), y.flip(axis), rtol=1e-4, atol=1e-5)
            mirror(net, axis)


def mirror(net: nn.Module, axis: int) -> None:
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.flip(axis)


def kept_for_gradients(length: int) -> int:
    """Bytes that the cell of xLSTM keeps for its gradients."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, length, 2, 8, requires_grad=True) for _ in range(3))
    i, f = (torch.randn(1, length, 2, requires_grad=True) for _ in range(2))
    kept: dict[int, int] = {}

    def count(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        y = mlstm(q, k, v, i, f)
    assert y.shape == q.shape
    return sum(kept.values())


def test_memory_of_xlstm_grows_with_the_length_of_a_group_not_with_its_square() -> None:
    short, long = kept_for_gradients(256), kept_for_gradients(1024)
    assert long <= 4.2 * short
    assert long < 1024 * 1024 * 2 * 4  # the weights of all pairs alone, of two heads

"""What must hold of LION's parts whatever the weights: empty samples, single voxels, odd grids, order of the points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from visionssm.pointcloud.backbone import LionBackbone, LionFlatBackbone
from visionssm.pointcloud.bev import PlainBevNet, ResidualBevNet, seen_from_above
from visionssm.pointcloud.blocks import LionLayer, VoxelGeneration, VoxelMerging
from visionssm.pointcloud.partition import Partition, places
from visionssm.pointcloud.voxels import Grid, RowNorm, Sites, VoxelEncoder, distinct

GRID = Grid((0, -4, -2, 8, 4, 2), (0.5, 0.5, 0.25))
SMALL = {"dim": 8, "windows": ((5, 5, 16), (5, 5, 8)), "group_sizes": (16, 8), "drop_path": 0.0}


def cloud(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 4, generator=generator) * torch.tensor([8, 8, 4, 1]) - torch.tensor([0, 4, 2, 0])


def networks() -> tuple[VoxelEncoder, LionBackbone]:
    torch.manual_seed(0)
    return VoxelEncoder(GRID, 4, (8, 8)).eval(), LionBackbone(**SMALL).eval()


def run(clouds: list[Tensor]) -> tuple[Tensor, Sites]:
    """In float64, as untrained layers amplify rounding."""
    encoder, backbone = networks()
    with torch.no_grad():
        return backbone.double()(*encoder.double()([x.double() for x in clouds])).output


def test_voxels_are_sorted_and_every_point_is_in_its_own() -> None:
    coords = torch.tensor([[1, 0, 2, 3], [0, 5, 1, 0], [1, 0, 2, 3], [0, 4, 1, 0]])
    sites, inverse = distinct(coords, (6, 4, 5), 2)
    assert sites.coords.tolist() == [[0, 4, 1, 0], [0, 5, 1, 0], [1, 0, 2, 3]]
    assert inverse.tolist() == [2, 1, 2, 0]


def test_points_outside_of_the_range_and_points_that_are_not_finite_change_nothing() -> None:
    encoder, _ = networks()
    points = cloud(50)
    bad = torch.tensor([[8.0, 0, 0, 0], [-0.01, 0, 0, 0], [1, 1, torch.nan, 0], [1, 1, 1, torch.inf], [1, 1, -9, 0]])
    torch.testing.assert_close(encoder([torch.cat([bad, points])])[0], encoder([points])[0], rtol=0, atol=1e-6)


def test_order_of_the_points_changes_nothing() -> None:
    points = cloud(200)
    (x, sites), (y, others) = run([points]), run([points.flip(0)])
    assert torch.equal(sites.coords, others.coords)
    torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-8)


def test_samples_of_a_batch_do_not_see_each_other_and_may_be_empty() -> None:
    first, second = cloud(120, seed=1), cloud(90, seed=2)
    x, sites = run([first, torch.zeros(0, 4), second])
    assert sites.counts[1] == 0
    for number, alone in ((0, first), (2, second)):
        y, own = run([alone])
        mine = sites.coords[:, 0] == number
        assert torch.equal(sites.coords[mine, 1:], own.coords[:, 1:])
        torch.testing.assert_close(x[mine], y, rtol=1e-8, atol=1e-8)


def test_a_batch_without_voxels_gives_an_empty_map() -> None:
    x, sites = run([torch.zeros(0, 4), cloud(5) + 100])
    assert x.shape == (0, 8)
    assert not seen_from_above(x, sites).any()
    assert seen_from_above(x, sites).shape == (2, 32, 16, 16)


@pytest.mark.parametrize("kind", [LionBackbone, LionFlatBackbone])
def test_a_single_voxel_can_be_trained_on(kind: type[LionBackbone]) -> None:
    encoder, _ = networks()
    backbone = kind(**SMALL)
    (x, _), _ = backbone.train()(*encoder.train()([cloud(1)]))
    assert len(x) == 1
    x.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in backbone.parameters())


def test_norm_of_fewer_than_two_rows_takes_the_running_statistics() -> None:
    norm = RowNorm(4)
    norm(torch.randn(50, 4) + 3)
    before = norm.running_mean.clone()
    x = torch.randn(1, 4)
    assert torch.equal(norm(x), norm.eval()(x))
    assert torch.equal(norm.running_mean, before)


def test_layers_do_not_write_into_their_input() -> None:
    _, sites = networks()[0]([cloud(100)])
    x = torch.randn(len(sites), 8)
    before = x.clone()
    LionLayer([nn.Identity(), nn.ReLU(inplace=True)], Partition((5, 5, 4), 16))(x, sites)
    backbone = LionBackbone(**SMALL).eval()
    with torch.no_grad():
        (output, _), stages = backbone(x, sites)
    assert torch.equal(x, before)
    assert not torch.equal(output, stages[-1][0])  # the original overwrites its last stage


def test_groups_of_identities_give_back_what_they_got() -> None:
    _, sites = networks()[0]([cloud(100), cloud(37, seed=1)])
    x = torch.randn(len(sites), 3)
    layer = LionLayer([nn.Identity(), nn.Identity()], Partition((5, 3, 4), 16, shifted=True))
    assert torch.equal(layer(x, sites), x)


class Sums(nn.Linear):
    """A linear layer of the sum of what came before in a group."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.cumsum(1))


@pytest.mark.parametrize("most", [1, 40])
def test_groups_taken_in_pieces_give_the_same_values_and_gradients(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, sites = networks()[0]([cloud(150), cloud(37, seed=1)])
    torch.manual_seed(0)
    layer = LionLayer([Sums(8, 8).double() for _ in range(2)], Partition((5, 3, 4), 16))
    sizes: list[int] = []
    layer.blocks[0].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[0] * inputs[0].shape[1]))
    x = torch.randn(len(sites), 8, dtype=torch.double)
    found = []
    for limit in (10**6, most):
        sizes.clear()
        monkeypatch.setattr("visionssm.pointcloud.blocks.MOST_TOKENS", limit)
        y = layer(x, sites)
        found.append([y, *torch.autograd.grad(y.square().sum(), [*layer.parameters()])])
        assert sum(sizes) == len(Partition((5, 3, 4), 16).of(sites).gather)
        assert len(sizes) == (1 if limit == 10**6 else -(-sum(sizes) // (max(most // 16, 1) * 16)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_tables_are_made_once_for_the_same_windows() -> None:
    _, sites = networks()[0]([cloud(60)])
    assert Partition((5, 5, 4), 16).of(sites) is Partition((5, 5, 4), 16).of(sites)
    assert Partition((5, 5, 4), 16).of(sites) is not Partition((5, 5, 4), 16, shifted=True).of(sites)
    assert sites.neighbours is sites.neighbours


def test_filled_places_repeat_what_comes_right_before_or_the_sample() -> None:
    gather, scatter = places([5, 2, 0, 8], size=4)
    assert gather.tolist() == [0, 1, 2, 3, 4, 1, 2, 3, 5, 6, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert gather[scatter].tolist() == list(range(15))


def test_an_odd_grid_is_rounded_up_and_its_last_voxels_keep_their_place() -> None:
    sites = Sites(torch.tensor([[0, 6, 0, 0], [0, 6, 0, 1]]), (7, 4, 5), 1)
    merging = VoxelMerging(4, (2, 2, 2))
    _, merged, inverse = merging(torch.randn(2, 4), sites)
    assert merged.shape == (4, 2, 3)
    assert merged.coords.tolist() == [[0, 3, 0, 0]]
    assert inverse.tolist() == [0, 0]


def test_merged_voxels_are_summed_before_the_norm() -> None:
    sites = Sites(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 3, 3]]), (2, 4, 4), 1)
    merging = VoxelMerging(4, (2, 2, 2))
    merging.sub_conv[1] = nn.Identity()
    merging.norm = nn.Identity()
    merging.sub_conv[0].forward = lambda x, sites: x  # type: ignore[method-assign]
    x = torch.rand(3, 4) * 10 + 10  # where GELU is the identity
    y, _, _ = merging(x, sites)
    torch.testing.assert_close(y, torch.stack([x[0] + x[1], x[2]]))


def test_new_voxels_stand_at_the_corners_of_the_most_telling_one_and_on_the_border_outside_of_it() -> None:
    sites = Sites(torch.tensor([[0, 1, 0, 2], [0, 1, 3, 0], [0, 0, 3, 3]]), (2, 4, 4), 1)
    generation = VoxelGeneration(4, (1, 1, 2), share=0.34)
    generation.foreground = lambda response, sites: torch.tensor([0])  # type: ignore[method-assign]
    y, merged, inverse = generation(torch.randn(3, 4), sites)
    made = {(1, 1), (1, 3), (0, 1), (0, 3)}  # y and x around (0, 2)
    assert {tuple(row) for row in merged.coords[:, 2:].tolist()} == made | {(0, 2), (3, 0), (3, 3)}
    own = set(range(len(merged))) - set(inverse.tolist())
    assert len(own) == 4
    torch.testing.assert_close(y[sorted(own)], generation.norm.bias.expand(4, 4))


def test_the_share_of_the_most_telling_voxels_is_taken_of_every_sample() -> None:
    coords = torch.tensor([[b, 0, y, 0] for b, count in ((0, 5), (1, 10)) for y in range(count)])
    sites = Sites(coords, (1, 10, 1), 3)
    response = torch.arange(15.0)
    assert VoxelGeneration(4, (1, 1, 2), share=0.2).foreground(response, sites).tolist() == [4, 14, 13]


def test_maps_have_the_height_within_the_channel() -> None:
    sites = Sites(torch.tensor([[1, 1, 2, 3]]), (2, 4, 5), 2)
    maps = seen_from_above(torch.tensor([[5.0, 7.0, 9.0]]), sites)
    assert maps.shape == (2, 6, 4, 5)
    assert maps[1, :, 2, 3].tolist() == [0, 5, 0, 7, 0, 9]
    assert maps.count_nonzero() == 3


@pytest.mark.parametrize("kind", [PlainBevNet, ResidualBevNet])
@pytest.mark.parametrize("size", [(12, 16), (13, 15)])
def test_map_networks_keep_the_size_of_odd_maps(kind: type[PlainBevNet], size: tuple[int, int]) -> None:
    levels = {"layers": (1, 1), "strides": (1, 2), "channels": (4, 6), "up_strides": (1, 2), "up_channels": (5, 5)}
    net = kind(3, **levels).eval()
    assert net(torch.randn(1, 3, *size)).shape == (1, 10, *size)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Partition((5, 0, 5), 16), r"window=\(5, 0, 5\)"),
        (lambda: Partition((5, 5, 5), 0), "group_size=0"),
        (lambda: Partition((5, 5, 5), 10**9), "group_size=1000000000"),
        (lambda: VoxelMerging(4, (2, 0, 2)), r"scale=\(2, 0, 2\)"),
        (lambda: VoxelGeneration(4, (1, 1, 2), share=1.5), "share=1.5"),
        (lambda: Grid((0, 0, 0, 1, 1, 0), (1, 1, 1)), "point_range="),
        (lambda: Grid((0, 0, 0, 1, 1, 1), (1, 0, 1)), "voxel_size="),
        (lambda: Grid((0, 0, 0, 1e5, 1e5, 1), (0.1, 0.1, 1)), "choose other voxels"),
        (lambda: VoxelEncoder(GRID, 2), "point_features=2"),
        (lambda: VoxelEncoder(GRID, 4)([torch.zeros(3, 5)]), "point_features of the model's config"),
        (lambda: LionBackbone(8, "lstm"), "operator='lstm'"),
        (lambda: LionBackbone(8, windows=((5, 5, 5),), group_sizes=(4, 4)), "as many"),
        (
            lambda: PlainBevNet(3, layers=(1,), strides=(1, 2), channels=(4,), up_strides=(1,), up_channels=(4,)),
            "every level",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_named(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


def test_checkpointing_keeps_less_and_changes_no_gradient() -> None:
    encoder, _ = networks()
    x, sites = encoder([cloud(400)])
    found, kept = [], []
    for enable in (False, True):
        torch.manual_seed(0)
        backbone = LionBackbone(**{**SMALL, "drop_path": 0.5}, grad_checkpointing=enable)
        sizes = {}

        def keep(y: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[y.data_ptr()] = y.nbytes
            return y

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda y: y):
            (y, _), _ = backbone(x.detach(), sites)
        y.square().sum().backward()
        found.append([p.grad for p in backbone.parameters()])
        kept.append(sum(sizes.values()))
    assert kept[1] < kept[0] / 2
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True) if a is not None)  # groups left out are the same
    assert sum(p is not None for p in found[0]) > 100

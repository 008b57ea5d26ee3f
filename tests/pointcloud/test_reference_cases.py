"""LION's parts and networks against numerical cases of the authors' code: values, selections, gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.reference_cases import Case, every_case, gradient_norms, relative_gradient_error
from visionssm.pointcloud.backbone import LionBackbone, LionFlatBackbone
from visionssm.pointcloud.bev import BEV_NETS
from visionssm.pointcloud.blocks import DIAGONALS, LionBlock, LionLayer, VoxelGeneration, VoxelMerging
from visionssm.pointcloud.keys import checkpoint_filter_fn
from visionssm.pointcloud.operators import OPERATORS
from visionssm.pointcloud.operators.mamba import MambaOperator
from visionssm.pointcloud.partition import Partition
from visionssm.pointcloud.voxels import Grid, Sites, VoxelEncoder

TOLERANCE = 1e-4
NOISE = {"backbone_xlstm": 8e-4}
"""Of recorded gradients, where the authors' float32 is itself off by more than the tolerance."""


def recorded(entry: dict[str, Any]) -> Tensor:
    """A tensor that a case holds in full."""
    return torch.tensor(entry["values"]).reshape(entry["shape"])


def sites_of(case: Case) -> Sites:
    given = case.data["input"]
    return Sites(recorded(given["coords"]), given["sparse_shape_zyx"], given["batch_size"])


def loaded(case: Case, model: nn.Module) -> nn.Module:
    """The model with the case's weights, in evaluation mode."""
    assert sum(x.numel() for x in model.parameters()) == case.data["n_params"]
    model.load_state_dict(checkpoint_filter_fn(case.state_dict(), model), strict=True)
    return model.eval()


def check_gradients(case: Case, model: nn.Module, output: Tensor, x: Tensor | None = None) -> None:
    (output * case.cotangent(output)).sum().backward()
    tolerance = NOISE.get(case.path.stem, TOLERANCE)
    if x is not None and "input_grad" in case.data:
        expected = recorded(case.data["input_grad"])
        assert x.grad is not None
        assert float((x.grad - expected).abs().max() / expected.abs().max()) <= tolerance
    norms = gradient_norms(case, model, checkpoint_filter_fn)
    assert norms
    worst = {name: relative_gradient_error(*pair) for name, pair in norms.items()}
    assert max(worst.values()) <= tolerance, worst


def features_of(case: Case) -> Tensor:
    return case.image().requires_grad_()


def operators_of(case: Case, count: int) -> list[nn.Module]:
    init = case.data["init"]
    make = OPERATORS[case.data["operator"].lower()]
    options = options_of(init["operator"])
    return [make(init["dim"], number=init["layer_id"] + i, total=init["n_layer"], **options) for i in range(count)]


def options_of(config: dict[str, Any]) -> dict[str, Any]:
    return {"heads": config["n_head"]} if "n_head" in config else {}


@every_case("LION partition")
def test_partition_and_its_orders_are_the_authors(case: Case) -> None:
    given, expected = case.data["input"], case.data["outputs"]
    groups = Partition(given["window_shape_xyz"], given["group_size"], given["shift"]).of(sites_of(case))
    assert torch.equal(groups.gather, recorded(expected["flat2win"]))
    assert torch.equal(groups.scatter, recorded(expected["win2flat"]))
    for direction, order in groups.orders.items():
        assert torch.equal(order.order, recorded(expected[direction]))


@every_case("LION voxel features")
def test_voxel_features_are_the_authors(case: Case) -> None:
    init = case.data["init"]
    grid = Grid(init["point_cloud_range"], init["voxel_size"])
    assert list(grid.shape) == init["grid_size_xyz"][::-1]
    model = loaded(case, VoxelEncoder(grid, init["num_point_features"], init["num_filters"]))
    points = recorded(case.data["input"]["points"])
    clouds = [points[points[:, 0] == sample, 1:] for sample in range(int(points[:, 0].max()) + 1)]
    output, sites = model(clouds)
    assert torch.equal(sites.coords, recorded(case.data["out_coords"]))
    assert case.relative_error("output", output) <= TOLERANCE
    check_gradients(case, model, output)


@every_case("LION operator")
def test_operator_and_its_gradients_are_the_authors(case: Case) -> None:
    init = case.data["init"]
    make = OPERATORS[case.data["operator"].lower()]
    model: nn.Module = make(
        init["d_model"], number=init.get("layer_id", 0), total=init.get("n_layer", 1), **options_of(init)
    )
    loaded(case, model)
    x = features_of(case)
    if init.get("post_norm", True):
        output = model(x)
    else:  # no published network has it so
        assert isinstance(model, MambaOperator)
        output = x + model.mamba(model.norm(x))
    assert case.relative_error("output", output) <= TOLERANCE
    check_gradients(case, model, output, x)


@every_case("LION layer")
def test_layer_and_its_gradients_are_the_authors(case: Case) -> None:
    init = case.data["init"]
    partition = Partition(init["window_shape_xyz"], init["group_size"], init["shift"])
    model = loaded(case, LionLayer(operators_of(case, 2), partition))
    x = features_of(case)
    before = x.detach().clone()
    output = model(x, sites_of(case))
    assert torch.equal(x, before)
    assert case.relative_error("output", output) <= TOLERANCE
    check_gradients(case, model, output, x)


@every_case("LION block")
def test_block_and_its_gradients_are_the_authors(case: Case) -> None:
    init = case.data["init"]
    scales, window = init["down_scales"], init["window_shape_xyz"]
    operators = operators_of(case, 8)
    model = loaded(case, LionBlock(init["dim"], scales, window, init["group_size"], operators))
    x = features_of(case)
    output = model(x, sites_of(case))
    assert case.relative_error("output", output) <= TOLERANCE
    check_gradients(case, model, output, x)


def merging_of(case: Case) -> VoxelMerging:
    init, call = case.data["init"], case.data["call"]
    if not init.get("diffusion"):
        return VoxelMerging(init["dim"], init["down_scale"])
    far = call.get("coords_shift", 1)
    steps = [(far * x, far * y) for x, y in DIAGONALS[: call.get("diffusion_scale", 4)]]
    return VoxelGeneration(init["dim"], init["down_scale"], init["diff_scale"], steps)


@every_case("LION merging")
def test_merged_and_generated_voxels_are_the_authors(case: Case) -> None:
    model = merging_of(case)
    loaded(case, model)
    x = features_of(case)
    output, sites, inverse = model(x, sites_of(case))
    if case.path.stem.endswith("odd_defect"):
        # The authors number windows by the rounded-down size of the grid, so that the last layer of an odd grid comes
        # to lie in the first one of the next row. Ours has a layer of its own.
        assert sites.shape == tuple(case.data["out_shape_zyx"])
        assert len(sites) > len(recorded(case.data["out_coords"]))
        steps = torch.tensor([1, *reversed(model.scale)])
        assert torch.equal(sites.coords[inverse], sites_of(case).coords // steps)
        return
    assert sites.shape == tuple(case.data["out_shape_zyx"])
    assert torch.equal(sites.coords, recorded(case.data["out_coords"]))
    assert torch.equal(inverse, recorded(case.data["unq_inv"])[: len(x)])
    assert case.relative_error("output", output) <= TOLERANCE
    check_gradients(case, model, output, x)


BACKBONES = {"LION3DBackboneOneStride": LionBackbone, "LION3DBackboneOneStride_Sparse": LionFlatBackbone}


@every_case("LION backbone", slow="64dim")
def test_backbone_and_its_gradients_are_the_authors(case: Case) -> None:
    init = case.data["init"]
    model = loaded(
        case,
        BACKBONES[case.data["cls"]](
            init["FEATURE_DIM"],
            case.data["operator"].lower(),
            init["WINDOW_SHAPE"],
            init["GROUP_SIZE"],
            options=options_of(init["OPERATOR"]["CFG"]),
        ),
    )
    x = features_of(case)
    (output, sites), stages = model(x, sites_of(case))
    voxels = {f"x_conv{i + 1}": len(where) for i, (_, where) in enumerate(stages)}
    assert case.data["stage_voxels"] in (voxels, {})
    for number, (features, where) in enumerate(stages, start=1):
        if f"coords_x_conv{number}" in case.data:
            assert torch.equal(where.coords, recorded(case.data[f"coords_x_conv{number}"]))
        if f"x_conv{number}" in case.data["outputs"] and number < 4:  # the authors overwrite the fourth by the output
            assert case.relative_error(f"x_conv{number}", features) <= TOLERANCE
    coords = recorded(case.data["out_coords"])
    assert torch.equal(sites.coords[:, [0, 2, 3]] if coords.shape[1] == 3 else sites.coords, coords)
    assert case.relative_error("output", output) <= TOLERANCE
    if case.path.stem in NOISE:  # amplifies the rounding of float32, ours too: what is true is told by float64
        x = x.detach().double().requires_grad_()
        output = model.double()(x, sites_of(case)).output[0]
    if "grad_norms" in case.data:
        check_gradients(case, model, output, x)


BEV_KINDS = {"BaseBEVBackbone": "plain", "BaseBEVResBackbone": "residual"}


@every_case("LION map network")
def test_network_on_the_map_is_the_authors(case: Case) -> None:
    init = case.data["init"]
    cfg = init["cfg"]
    model = BEV_NETS[BEV_KINDS[init["cls"]]](
        init["input_channels"],
        layers=cfg["LAYER_NUMS"],
        strides=cfg["LAYER_STRIDES"],
        channels=cfg["NUM_FILTERS"],
        up_strides=cfg["UPSAMPLE_STRIDES"],
        up_channels=cfg["NUM_UPSAMPLE_FILTERS"],
    )
    loaded(case, model)
    output = model(case.image())
    assert case.relative_error("output", output) <= TOLERANCE
    check_gradients(case, model, output)

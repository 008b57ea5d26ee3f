"""Accounting of the GPU kernels: sizes against executed machine code, results of that code, and the promised bounds."""

from __future__ import annotations

import itertools
import json
import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is only published for Linux")

from tests.kernels.interpreted_selective_scan import CASES, RESULTS, Case, _cotangents, expected, make_inputs
from visionssm.benchmarks import ptx
from visionssm.benchmarks.inspection import (
    execute,
    execute_forward,
    forward_example,
    issued,
    operators,
    resources,
    traffic_rows,
)
from visionssm.benchmarks.kernels import SHAPES, VMAMBA_T, VMAMBA_V0_T, Shape
from visionssm.benchmarks.traffic import GPUS, ideal_scan, least_on_chip, memory_traffic, our_passes, published_passes
from visionssm.kernels.aot import TARGETS
from visionssm.kernels.selective_scan import gpu
from visionssm.kernels.selective_scan.scan import Scan

ROOT = Path(__file__).parents[2]
ONE_STATE = Shape("one state", 0, 0, channels=96, d_state=1, dt_rank=6, n_routes=2)
MANY_STATES = Shape("many states", 0, 0, channels=32, d_state=16, dt_rank=12, n_routes=2)
NVIDIA = [name for name, (backend, *_) in TARGETS.items() if backend == "cuda"]
HALF_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 8e-4}


# ------------------------------------------------------------------------------------ the compiled code and the sizes


@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize("steps", [16, 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_code_moves_the_bytes_that_the_sizes_say(dtype: torch.dtype, steps: int, target: str) -> None:
    run = execute_forward(ONE_STATE, steps, dtype, target)
    assert {k: v for k, v in run.trace.distinct.items() if v} == run.expected


def test_compiled_code_with_many_states_moves_the_bytes_that_the_sizes_say() -> None:
    run = execute_forward(MANY_STATES, 70, torch.float32, "sm90")  # two saved chunks
    assert {k: v for k, v in run.trace.distinct.items() if v} == run.expected


def test_map_is_read_and_sum_is_written_by_one_thread_for_each_element() -> None:
    run = execute_forward(ONE_STATE, 32, torch.float32, "sm90")
    for key in (("load", "u"), ("atomic", "y"), ("store", "final_state")):
        assert run.trace.requested[key] == run.expected[key]
    repeated = {k for k, v in run.expected.items() if run.trace.requested[k] > v}
    assert repeated == {("load", name) for name in ("order", "a")}, (
        "every chunk reads these again, the next pixels before they are needed: the first-level cache serves those"
    )


@pytest.mark.parametrize(("shape", "steps"), [(ONE_STATE, 32), (MANY_STATES, 16)], ids=["one", "many"])
def test_compiled_code_takes_one_exponential_a_step_and_one_a_state(shape: Shape, steps: int) -> None:
    trace = execute_forward(shape, steps, torch.float32, "sm90").trace
    count = sum(n for name, n in trace.executed.items() if name.startswith("ex2."))
    assert count == shape.n_routes * steps * shape.channels * (1 + shape.d_state)


def test_amd_code_adds_each_element_of_a_chunk_once() -> None:
    shape = VMAMBA_T[0]
    launch = forward_example(replace(shape, batch=1), 64, torch.float32)
    report = launch.compile_for("gfx942")
    tile = gpu.forward_tile(shape.d_state)
    atomics = len(re.findall(r"\bbuffer_atomic_add_f32\b|\bglobal_atomic_add_f32\b", report.assembly))
    assert atomics * report.num_warps * TARGETS["gfx942"][2] == tile.steps * tile.channels


def test_counts_of_a_part_extend_to_the_whole_shape() -> None:
    shape = replace(ONE_STATE, height=4, width=48)
    whole = execute(forward_example(shape, 192, torch.float32), "sm90")
    asked = sum(n for (_, tensor), n in whole.requested.items() if tensor != "states")
    assert issued(shape, torch.float32).requested == asked


# --------------------------------------------------------------------------------------- results of the compiled code


def _errors_of_executed_code(case: Case, target: str) -> dict[str, float]:
    inputs, order = make_inputs(case)
    scan = Scan(*inputs[:-1], order, inputs[-1])
    y, final_state, states, forward = gpu.forward_launch(scan, merge=case.merge, save_states=True)
    execute(forward, target)
    y = y.to(case.dtype)
    grad_y, grad_state = _cotangents(y, final_state)
    grads, backward = gpu.backward_launch(grad_y, None if case.plain else grad_state, scan, states)
    execute(backward, target)
    found = dict(zip(RESULTS, (y, final_state, *grads), strict=True))
    result = {}
    for name, want in expected(case).items():
        got = found[name]
        assert isinstance(got, Tensor)
        if want.numel():
            result[name] = ((got.double() - want).abs().max() / want.abs().max().clamp(min=1e-30)).item()
    return result


@pytest.mark.parametrize("name", ["one_state_low_rank", "windows_with_padding", "bfloat16"])
def test_compiled_code_computes_values_and_gradients_of_the_definition(name: str) -> None:
    errors = _errors_of_executed_code(CASES[name], "sm90")
    assert max(errors.values()) <= HALF_TOLERANCE[CASES[name].dtype], errors


@pytest.mark.slow
@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize("name", [n for n in CASES if n not in ("no_batch", "no_steps")])
def test_compiled_code_of_every_target_computes_the_definition(name: str, target: str) -> None:
    errors = _errors_of_executed_code(CASES[name], target)
    tolerance = 1e-5 if name == "large_steps" else HALF_TOLERANCE[CASES[name].dtype]
    assert max(errors.values()) <= tolerance, errors


def _scan_with(order: Tensor, target: str) -> list[Tensor]:
    """Values and gradients of the compiled code along a table that nothing has checked."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    pixels, d, n, r = 6, 8, 2, 2
    u, low, b, c = normal(1, pixels, d), normal(1, pixels, 1, r), normal(1, pixels, 1, n), normal(1, pixels, 1, n)
    scan = Scan(u, low, normal(1, r, d), -normal(1, d, n).exp(), b, c, normal(1, d), normal(1, d), order, None)
    y, final_state, states, forward = gpu.forward_launch(scan, merge=True, save_states=True)
    execute(forward, target)
    grads, backward = gpu.backward_launch(y.cos(), None, scan, states)
    execute(backward, target)
    return [y, final_state, *(g for g in grads if g is not None)]


@pytest.mark.parametrize("target", ["sm80", "sm100"])
def test_number_that_is_no_pixel_is_a_step_outside_the_map_and_touches_nothing(target: str) -> None:
    table = torch.tensor([[[3, 6, 0, 2**31 - 1, 5, -2, 1, 7, -(2**31), 2]]], dtype=torch.int32)
    cleaned = torch.where((table >= 0) & (table < 6), table, -1)
    for got, want in zip(_scan_with(table, target), _scan_with(cleaned, target), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_a_read_outside_every_tensor_is_noticed() -> None:
    launch = forward_example(replace(MANY_STATES, channels=8, d_state=1), 16, torch.float32)
    report = launch.compile_for("sm90")
    order = launch.arguments["order"]
    assert isinstance(order, Tensor)
    arguments = {**launch.arguments, "order": torch.full_like(order, 10**6), "n_pixels": 10**7 // 16 * 16}
    with pytest.raises(ptx.OutOfBoundsError, match="lie in no tensor"):
        ptx.run(report.assembly, arguments, [0], shared_bytes=report.shared_bytes)


def test_instruction_that_the_interpreter_does_not_know_is_refused() -> None:
    text = ".visible .entry k(\n.param .u64 p\n)\n.reqntid 32\n{\n wgmma.fence.sync.aligned;\n ret;\n}"
    with pytest.raises(ptx.UnsupportedInstructionError, match=r"wgmma\.fence"):
        ptx.run(text, {}, [0], shared_bytes=0)


# ------------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("device", GPUS, ids=lambda g: g.name)
@pytest.mark.parametrize("item", [4, 2], ids=["float32", "half"])
def test_scan_of_one_image_moves_at_most_1_3_times_the_ideal_bytes(device: Any, item: int) -> None:
    for shape in SHAPES:
        moved = memory_traffic(shape, item, device, resident=device.processors, programs=12)
        assert moved.served == "all"
        assert moved.bytes <= 1.3 * ideal_scan(shape, item), shape.name


@pytest.mark.parametrize("device", GPUS, ids=lambda g: g.name)
def test_what_the_cache_cannot_serve_is_counted_a_route(device: Any) -> None:
    """The kernel reads the map and adds to the sum once a route, so a batch beyond the cache costs several ideals."""
    shape = replace(VMAMBA_T[0], batch=1024)
    moved = memory_traffic(shape, 4, device, resident=10**6, programs=12 * 1024)
    u = shape.batch * shape.height * shape.width * shape.channels * 4
    assert moved.served == "none"
    assert moved.bytes > (4 + 2 * 4) * u
    fewer = memory_traffic(shape, 4, device, resident=12, programs=12 * 1024)
    assert fewer.served == "within the scan"
    assert fewer.bytes < moved.bytes


@pytest.mark.parametrize("shape", [*VMAMBA_T, VMAMBA_V0_T], ids=lambda s: s.name)
def test_published_layout_moves_at_least_four_times_as_many_bytes(shape: Shape) -> None:
    shape = replace(shape, batch=128)
    assert sum(published_passes(shape, 4).values()) >= 4 * sum(our_passes(shape, 4).values())


@pytest.mark.parametrize("shape", [*VMAMBA_T, VMAMBA_V0_T], ids=lambda s: s.name)
def test_half_precision_pays_for_the_float32_sum(shape: Shape) -> None:
    """Clearing, adding and converting float32 in memory leaves a factor of two and a half where maps are halves."""
    shape = replace(shape, batch=128)
    ratio = sum(published_passes(shape, 2).values()) / sum(our_passes(shape, 2).values())
    assert 2.3 <= ratio < 4


def test_least_bytes_on_chip_are_as_worked_out_by_hand() -> None:
    shape = Shape("hand", height=8, width=10, channels=32, d_state=1, dt_rank=2, n_routes=4)
    ideal = ideal_scan(shape, 4)
    steps_b_c = 80 * 4 * (2 + 2)
    assert least_on_chip(shape, 4, 80 * 32 * 8) == ideal  # the whole map fits
    assert least_on_chip(shape, 4, 80 * 16 * 8) == ideal + steps_b_c * 4  # two blocks of channels, or four bands
    # One row of all channels and no block of sixteen: eight bands, two routes, ten columns, six floats a channel.
    assert least_on_chip(shape, 4, 10 * 32 * 8) == ideal + 8 * 2 * 10 * 32 * 6 * 4
    assert least_on_chip(shape, 4, 10 * 32 * 8 - 1) is None


def test_first_stages_cannot_come_within_1_3_times_the_ideal_in_one_multiprocessor() -> None:
    for shape, device in itertools.product(VMAMBA_T[:2], GPUS):
        least = least_on_chip(shape, 4, device.shared)
        assert least is not None
        assert least > 1.3 * ideal_scan(shape, 4)
    for shape in VMAMBA_T[2:]:
        least = least_on_chip(shape, 4, GPUS[1].shared)
        assert least is not None
        assert least < 1.3 * ideal_scan(shape, 4)


def test_passes_of_the_layouts_are_as_worked_out_by_hand() -> None:
    shape = Shape("hand", height=1, width=10, channels=8, d_state=1, dt_rank=2, n_routes=4)
    # map 80, projected 160, steps 320 full and 80 low, projection 128, parameters 160, table 40, final state 32
    assert our_passes(shape, 4) == {
        "project": 4 * (80 + 160 + 128),
        "clear": 4 * 80,
        "scan": 4 * (80 + 160 + 160 + 160 + 32 + 40),
    }
    assert our_passes(shape, 2)["convert"] == 80 * (4 + 2)
    assert published_passes(shape, 4) == {
        "copy": 4 * (80 + 320),
        "project": 4 * (320 + 160 + 128),
        "expand": 4 * (80 + 320 + 64),
        "scan": 4 * (320 + 320 + 80 + 320 + 96),
        "merge": 4 * (320 + 80),
    }


# -------------------------------------------------------------------------------------------------------------- tables


def test_operators_with_launches_are_found() -> None:
    assert "selective_scan" in operators()


@pytest.mark.slow
def test_no_kernel_of_any_operator_spills_on_any_target() -> None:
    spilled = [row for row in resources() if row["spilled bytes"]]
    assert not spilled


def test_traffic_table_says_how_much_warps_ask_for() -> None:
    (row,) = traffic_rows(VMAMBA_T[:1], [1], torch.float32)
    assert 1 < row["reaches programs / ideal"] < row["asked by warps / ideal"] < 20
    assert row["published / ours"] > 4


def _tool(*arguments: str) -> int:
    status = runpy.run_path(str(ROOT / "tools" / "inspect_kernels.py"))["main"](arguments)
    assert isinstance(status, int)
    return status


def test_tool_prints_and_writes_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = [tmp_path / "kernels.json", tmp_path / "kernels.md"]
    chosen = ["--tables", "traffic", "--shapes", "*T stage 4", "--batches", "1"]
    assert _tool(*chosen, "--json", str(out[0]), "--markdown", str(out[1])) == 0
    printed = capsys.readouterr()
    assert "VMamba-T stage 4" in printed.err, "progress is shown"
    assert out[1].read_text() == printed.out
    (row,) = json.loads(out[0].read_text())["traffic"]
    assert row["scan"] == "VMamba-T stage 4"
    assert sorted(tmp_path.iterdir()) == sorted(out)


def test_floors_say_which_of_memory_and_arithmetic_binds(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    assert _tool("--tables", "floors", "--shapes", "VMamba-T stage 4", "--batches", "1", "128", "--json", str(out)) == 0
    rows = json.loads(out.read_text())["floors"]
    assert [row["GPU"] for row in rows[::2]] == [device.name for device in GPUS]
    for row in rows:
        floors = {name: row[f"{name} µs"] for name in ("memory", "special", "multiply-add")}
        assert floors[row["binds"]] == max(floors.values()) > 0


def test_tool_names_a_pattern_that_matches_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        _tool("--shapes", "Nothing*")
    assert stopped.value.code == 2
    assert "no scan matches Nothing*" in capsys.readouterr().err

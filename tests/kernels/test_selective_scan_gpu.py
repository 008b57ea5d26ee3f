"""The Triton selective scan without a GPU: numerics in Triton's interpreter, machine code compiled for every target."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton is only published for Linux")

from tests.children import errors_of_cases
from tests.kernels.interpreted_selective_scan import CASES
from visionssm.kernels import selective_scan, use_backend
from visionssm.kernels.aot import TARGETS, KernelLaunch, compile_for
from visionssm.kernels.selective_scan import gpu
from visionssm.kernels.selective_scan.scan import Scan

# Rounding of results and gradients in the case's dtype; steps of 40 amplify the rounding of dt before exp.
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 8e-4}
LARGE_STEPS = 1e-5

# (D, R) of the four stages.
VMAMBA = ((96, 6), (192, 12), (384, 24), (768, 48))
VMAMBA_V0 = ((192, 12), (384, 24), (768, 48), (1536, 96))
SHAPES = [(1, *stage) for stage in VMAMBA] + [(16, *stage) for stage in VMAMBA_V0]


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, float]]:
    """Errors of every case, from one process in which Triton interprets kernels."""
    return errors_of_cases("tests.kernels.interpreted_selective_scan")


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_the_float64_definition(case: str, interpreted: dict[str, dict[str, float]]) -> None:
    tolerance = LARGE_STEPS if case == "large_steps" else TOLERANCES[CASES[case].dtype]
    wrong = {name: error for name, error in interpreted[case].items() if not error <= tolerance}
    assert not wrong


def launches(d_state: int, channels: int, rank: int, dtype: torch.dtype) -> dict[str, KernelLaunch]:
    return gpu.launches(pixels=3136, channels=channels, d_state=d_state, routes=4, rank=rank, batch=2, dtype=dtype)


def allowed(kernel: str, rank: int, target: str) -> int:
    """Bytes that a thread of a launch may spill: twice as many off the target that tiles were chosen for.

    A program sums the gradient of its (R, 32) low-rank weights in registers, which is most of them from R = 48 on.
    """
    of_kernel = {"forward": 64, "backward": 256}.get(kernel, 0)
    return of_kernel * (1 if target == "sm90" else 2) * (1 if rank <= 24 else rank // 12)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [SHAPES[0], pytest.param(SHAPES[4], marks=pytest.mark.slow)], ids=["one", "many"])
def test_first_stages_compile_with_few_spills(target: str, shape: tuple[int, int, int]) -> None:
    for name, launch in launches(*shape, torch.float32).items():
        report = launch.compile_for(target)
        assert report.spill_bytes <= allowed(name, shape[2], target), (name, report)
        assert report.registers > 0
        assert report.shared_bytes <= 48 * 1024, (name, report)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("d_state", [1, pytest.param(16, marks=pytest.mark.slow)])
def test_walking_in_parts_compiles_with_few_spills(d_state: int, target: str) -> None:
    divided = gpu.launches(pixels=3136, channels=96, d_state=d_state, routes=4, rank=6, multiprocessors=132)
    assert len(divided) == 6
    for name, launch in divided.items():
        report = launch.compile_for(target)
        assert report.spill_bytes <= allowed(name, 6, target), (name, report)


@settings(deadline=None)
@given(st.integers(0, 5000), st.integers(0, 70000), st.integers(1, 64), st.integers(0, 300))
def test_parts_cover_the_sequence_once(programs: int, n_steps: int, d_state: int, multiprocessors: int) -> None:
    parts = gpu.parts_for(programs, n_steps, d_state, multiprocessors)
    assert parts.steps % gpu.saved_apart(d_state) == 0
    assert parts.count * parts.steps >= n_steps
    assert parts.count == 1 or (parts.count - 1) * parts.steps < n_steps


def test_sequences_are_divided_only_where_they_would_leave_the_gpu_idle() -> None:
    assert gpu.parts_for(programs=12, n_steps=56 * 56, d_state=1, multiprocessors=132).count > 20
    assert gpu.parts_for(programs=12, n_steps=256 * 256, d_state=1, multiprocessors=132).count >= 80
    assert gpu.parts_for(programs=12, n_steps=49, d_state=1, multiprocessors=132).count == 1
    assert gpu.parts_for(programs=64 * 12, n_steps=56 * 56, d_state=1, multiprocessors=132).count <= 2
    assert gpu.parts_for(programs=2000, n_steps=56 * 56, d_state=1, multiprocessors=132).count == 1


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_stage_compiles_with_few_spills(shape: tuple[int, int, int], dtype: torch.dtype, target: str) -> None:
    for name, launch in launches(*shape, dtype).items():
        report = launch.compile_for(target)
        assert report.spill_bytes <= allowed(name, shape[2], target), (name, report)


@pytest.mark.parametrize("target", ["sm90", "gfx942"])
def test_full_rank_steps_and_given_states_compile(target: str) -> None:
    tensors = {"u": (1, 9, 8), "dt": (1, 9, 2, 8), "a": (2, 8, 3), "b": (1, 9, 2, 3)}
    u, dt, a, b = (torch.empty(shape, dtype=torch.float16, device="meta") for shape in tensors.values())
    order = torch.empty((2, 1, 9), dtype=torch.int32, device="meta")
    state = torch.empty((1, 2, 1, 8, 3), device="meta")
    scan = Scan(u, dt, None, a.float(), b, b, None, None, order, state)
    y, final, saved, forward = gpu.forward_launch(scan, merge=False, save_states=True)
    _, backward = gpu.backward_launch(y, final, scan, saved)
    assert forward.compile_for(target).registers > 0
    assert backward.compile_for(target).registers > 0


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[4]], ids=["vmamba", "vmamba_v0"])
def test_saved_tensors_are_at_most_three_maps(shape: tuple[int, int, int]) -> None:
    arguments = launches(*shape, torch.float32)["backward"].arguments
    saved = ("u", "dt", "dt_weight", "a", "b", "c", "skip", "dt_bias", "order", "states")
    tensors = [arguments[name] for name in saved]
    total = sum(x.numel() * x.element_size() for x in tensors if isinstance(x, torch.Tensor))
    u = arguments["u"]
    assert isinstance(u, torch.Tensor)
    assert total <= 3 * u.numel() * 4


def _sized(u: torch.Tensor, a: torch.Tensor, order: torch.Tensor) -> Scan:
    return Scan(u, u, None, a, u, u, None, None, order, None)


def test_states_are_saved_only_between_chunks() -> None:
    chunk = gpu.saved_apart(16)

    def saved(n_steps: int) -> int:
        return gpu.states_shape(_sized(torch.empty(2, 9, 8), torch.empty(1, 8, 16), torch.empty(1, 1, n_steps)))[3]

    assert [saved(n) for n in (0, 1, chunk, chunk + 1, 2 * chunk, 2 * chunk + 1)] == [0, 0, 0, 1, 1, 2]


def test_saved_states_have_a_shape_for_symbolic_sizes() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def states(u: torch.Tensor, a: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        return u.new_empty(gpu.states_shape(_sized(u, a, order)))

    sizes = torch.empty(2, 200, 8), torch.empty(2, 8, 16), torch.empty(2, 3, 200)
    traced = make_fx(states, tracing_mode="symbolic")(*sizes)
    other = torch.empty(3, 500, 6), torch.empty(4, 6, 16), torch.empty(4, 2, 500)
    assert traced(*other).shape == gpu.states_shape(_sized(*other))


def test_states_are_saved_at_borders_of_both_passes_chunks() -> None:
    for d_state in range(1, 65):
        assert gpu.saved_apart(d_state) % gpu.forward_tile(d_state).steps == 0
        assert gpu.saved_apart(d_state) % gpu.backward_tile(d_state).steps == 0


def test_unknown_target_is_named() -> None:
    with pytest.raises(ValueError, match=r"target='sm75'.*sm80"):
        compile_for(None, {}, {}, "sm75", 1)


def test_states_saved_by_another_backend_are_refused() -> None:
    steps = 4 * gpu.saved_apart(16)
    u, dt = torch.randn(1, steps, 8, requires_grad=True), torch.randn(1, steps, 1, 8)
    b, order = torch.randn(1, steps, 1, 16), torch.arange(steps, dtype=torch.int32).view(1, 1, steps)
    y = selective_scan(u, dt, -torch.rand(1, 8, 16), b, b, order=order)
    assert isinstance(y, torch.Tensor)
    with use_backend("triton"), pytest.raises(RuntimeError, match="run forward and backward pass on the same backend"):
        y.sum().backward()


def test_plan_of_a_scan_is_made_once_for_tensors_that_agree_in_all_but_values(monkeypatch: pytest.MonkeyPatch) -> None:
    from visionssm.kernels.selective_scan import gpu_arguments

    monkeypatch.setattr(gpu_arguments, "_PLANS", {})

    def plan(channels: int, wide: bool = False) -> gpu_arguments.Plan:
        projected = torch.randn(2, 9, 1, 5 + wide)
        low, b, c = projected[..., :3], projected[..., 3:4], projected[..., 4:5]
        u, weight, a = torch.randn(2, 9, channels), torch.randn(1, 3, channels), torch.randn(1, channels, 1)
        scan = Scan(u, low, weight, a, b, c, None, None, torch.arange(9).int()[None, None], None)
        return gpu_arguments.plan_of(scan, u, gpu.saved_apart)[1]

    assert plan(8) is plan(8)
    assert plan(8).follows
    assert plan(8) is not plan(16)
    assert plan(8) is not plan(8, wide=True)
    assert plan(16).numbers["u_pixel"] == 16


def test_slices_are_one_projection_only_where_they_lie_side_by_side() -> None:
    from visionssm.kernels.selective_scan.gpu_arguments import follow

    projected, other = torch.randn(2, 2, 9, 1, 8)
    u, weight, a = torch.randn(2, 9, 4), torch.randn(1, 3, 4), torch.randn(1, 4, 1)

    def follows(low: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> bool:
        return follow(Scan(u, low, weight, a, b, c, None, None, torch.zeros(1, 1, 9).int(), None))

    low, b, c = projected[..., :3], projected[..., 3:4], projected[..., 4:5]
    assert follows(low, b, c)
    assert not follows(low, c, b)
    assert not follows(low, b, other[..., 4:5])
    assert not follows(low, b, projected[..., 5:6])
    assert not follows(low.contiguous(), b, c)
    assert not follows(low, b.half(), c)

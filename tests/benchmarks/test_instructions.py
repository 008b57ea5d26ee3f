"""Instructions of the compiled scan: the bounds that it keeps, and the reading of machine code that counts them."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is only published for Linux")

from visionssm.benchmarks import machine_code
from visionssm.benchmarks.inspection import all_launches
from visionssm.benchmarks.instructions import PUBLISHED, Count, count, instruction_rows

# Of the forward and the backward pass, sm90, bfloat16.
BOUNDS = {
    "VMamba-T stage 1": (90, 240),
    "VMamba-T stage 2": (95, 270),
    "VMamba-T stage 3": (100, 300),
    "VMamba-T stage 4": (140, 430),
    "VMamba-v0-T stage 1": (360, 1400),
    "Vim-T": (360, 1400),
}
SPILLED = {"forward": 64, "backward": 256}  # bytes per thread

SASS = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;          /* 0x00000a0000017a02 */
        /*0010*/                   FADD R2, R2, R3 ;               /* 0x0 */
        /*0020*/                   FFMA R2, R2, R3, R4 ;           /* 0x0 */
        /*0030*/                   MUFU.EX2 R5, R2 ;               /* 0x0 */
        /*0040*/              @!P1 BRA 0x20 ;                      /* 0x0 */
        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;   /* 0x0 */
        /*0060*/               @P0 BRA 0x10 ;                      /* 0x0 */
        /*0070*/                   EXIT ;                          /* 0x0 */
        /*0080*/                   BRA 0x80;                       /* 0x0 */
        /*0090*/                   NOP;                            /* 0x0 */
"""
AMD = """
kernel:
	s_load_dword s0, s[2:3], 0x0
.LBB0_1:
	v_add_f32_e32 v0, v1, v2
.LBB0_2:                                ; inner
	v_exp_f32_e32 v3, v0
	s_cbranch_scc1 .LBB0_2
	s_barrier
	s_cbranch_scc0 .LBB0_1
	s_endpgm
"""


def _counts(scan: str, target: str = "sm90") -> dict[str, Count]:
    found = all_launches("selective_scan", torch.bfloat16)
    return {kernel: count(launch, target) for shape, kernel, launch in found if shape == scan}


@pytest.mark.parametrize(
    "scan", ["VMamba-T stage 1", *(pytest.param(x, marks=pytest.mark.slow) for x in list(BOUNDS)[1:])]
)
def test_scan_keeps_its_bounds_and_issues_less_than_the_published_kernel(scan: str) -> None:
    for (kernel, one), bound in zip(_counts(scan).items(), BOUNDS[scan], strict=True):
        assert one.instructions <= bound, (kernel, one)
        assert one.instructions < PUBLISHED[scan, kernel]
        assert one.spill_bytes <= SPILLED[kernel], (kernel, one)
        # One exponential for the step size, one for each state, in the backward pass one for the slope of softplus.
        states = 16 if BOUNDS[scan][0] == 360 else 1
        assert one.specials >= 1 + states + (kernel == "backward")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm80", "sm100", "gfx942"])
def test_scan_is_counted_on_every_target(target: str) -> None:
    for kernel, one in _counts("VMamba-T stage 1", target).items():
        assert 20 < one.instructions < 1.2 * BOUNDS["VMamba-T stage 1"][kernel == "backward"]


@pytest.mark.parametrize(("text", "barrier", "special"), [(SASS, "BAR", "MUFU"), (AMD, "s_barrier", "v_exp")])
def test_loops_of_machine_code_are_found(text: str, barrier: str, special: str) -> None:
    (outer,) = machine_code.loops(text)
    (inner,) = outer.inner
    assert len(outer.names) == 3
    assert inner.count() == 2 + (text == SASS)
    assert outer.count(4) == 3 + 4 * inner.count()
    assert outer.of_kind(machine_code.BARRIERS) == 1
    assert sum(name.startswith(barrier) for name in outer.names) == 1
    assert outer.of_kind(machine_code.SPECIALS, 4) == 4
    assert inner.by_name()[special if text == SASS else "v_exp_f32_e32"] == 1


def test_table_has_the_published_count_beside_ours() -> None:
    rows = instruction_rows(["VMamba-T stage 1"], ["sm90"], torch.bfloat16)
    assert [row["published"] for row in rows] == [132, 244]
    assert all(row["instructions / warp-step"] < row["published"] and row["warps resident"] >= 8 for row in rows)

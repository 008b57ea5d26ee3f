"""Networks for medical segmentation on the CPU: what their scans cost, beside MONAI's; ratios of one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.benchmarks.memory import fresh_growth
from visionssm.benchmarks.networks import scanning_with
from visionssm.benchmarks.timing import CLOCKS, STEP_BY_STEP, medians_in_turn, merged, progress, ratio_row
from visionssm.extras import needs_extra
from visionssm.heads.medical import Plan, Segmenter, create_segmenter, plan
from visionssm.tasks.medical.inference import Inference, probabilities

Row = dict[str, Any]
Runs = Mapping[str, Callable[[], object]]
TURN = 0.4  # seconds: a few inferences, so that none is measured on the caches that another network leaves


@dataclass(frozen=True)
class Scale:
    """How large the cases are.

    Attributes:
        vmunet, mhsvm, swin, segmamba, umamba: names of the networks; `umamba` is made with `plan`.
        side: of the images; those twice as large are measured too.
        batch: images of a training step.
        plan: of U-Mamba and of MONAI's DynUNet beside it. The default is what the planner says to sixty volumes of
            40×112×96 voxels: that is too little for six stages, as published plans of larger patches have.
        volume: side of SegMamba's.
        windowed: network that is applied in sliding windows of its planned patch.
        scanned: sides of the volume that it is applied to.
        turn: seconds of a turn.
    """

    vmunet: str = "vmunet_isic"
    mhsvm: str = "mhsvm_4h"
    swin: str = "swin_umamba"
    segmamba: str = "segmamba"
    umamba: str = "umamba_enc3d"
    side: int = 256
    batch: int = 4
    plan: Plan = field(default_factory=lambda: plan([(2.5, 0.8, 0.8)] * 60, [(40, 112, 96)] * 60, num_classes=14))
    volume: int = 64
    windowed: str = "umamba_enc3d_nano"
    scanned: tuple[int, int, int] = (64, 96, 96)
    turn: float = TURN


TINY = Scale(
    vmunet="vmunet_nano",
    mhsvm="mhsvm_4h_nano",
    swin="swinumamba_nano",
    segmamba="segmamba_nano",
    umamba="umamba_enc3d_nano",
    side=32,
    batch=2,
    plan=Plan(patch=(8, 16, 16), widths=(4, 8, 16), strides=(1, 2, 2), blocks=(1,)),
    volume=16,
    scanned=(32, 48, 72),
    turn=0.0,
)
"""To see whether everything runs."""


def dynunet(plan: Plan, in_chans: int, num_classes: int) -> nn.Module:
    """MONAI's DynUNet with the stages, widths, kernels and strides of a plan, and residual blocks.

    Raises:
        MissingExtraError: (an ImportError) MONAI is not installed.
    """
    with needs_extra("medical", "MONAI's DynUNet"):
        from monai.networks.nets import DynUNet
    network: nn.Module = DynUNet(
        spatial_dims=plan.spatial_dims,
        in_channels=in_chans,
        out_channels=num_classes,
        kernel_size=plan.kernels,
        strides=plan.strides,
        upsample_kernel_size=plan.strides[1:],
        filters=plan.widths,
        res_block=True,
    )
    return network


def infer(model: nn.Module, x: Tensor, scan: str = "ours") -> None:
    """Forward pass without gradients, with a scan of `visionssm.benchmarks.networks.SCANS`."""
    with torch.inference_mode(), scanning_with(scan):
        model(x)


def train(model: nn.Module, x: Tensor, scan: str = "ours") -> None:
    """Forward and backward pass."""
    model.zero_grad()
    with scanning_with(scan):
        y = model(x)
        torch.stack([level.square().mean() for level in (y if isinstance(y, list) else [y])]).sum().backward()


def noise(*shape: int) -> Tensor:
    """An image or a volume of it."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _of_plan(scale: Scale, name: str) -> nn.Module:
    """ "U-Mamba" or "DynUNet", with the logits of the finest resolution alone."""
    torch.manual_seed(0)
    if name == "DynUNet":
        return dynunet(scale.plan, 1, 14)
    return create_segmenter(scale.umamba, num_classes=14, in_chans=1, plan=scale.plan, deep_supervision=False)


def images_step(scale: Scale, scan: str) -> Callable[[], object]:
    """A warm training step of VM-UNet."""
    torch.manual_seed(0)
    model = create_segmenter(scale.vmunet)
    train(model, noise(1, model.in_chans, 64, 64), scan)  # compiles kernels and allocates gradients
    return partial(train, model, noise(scale.batch, model.in_chans, scale.side, scale.side), scan)


def volume_step(scale: Scale, name: str) -> Callable[[], object]:
    """A training step of U-Mamba or DynUNet on the planned patch, which they have taken once."""
    model = _of_plan(scale, name)
    step = partial(train, model, noise(1, 1, *scale.plan.patch))
    step()
    return step


def windows(volume: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> int:
    """How many windows MONAI lays over a volume that is no smaller than a window."""
    return math.prod(
        math.ceil((side - of_patch) / max(1, int(of_patch * (1 - overlap)))) + 1
        for side, of_patch in zip(volume, patch, strict=True)
    )


def of_images(scale: Scale, in_turn: Callable[..., dict[str, float]]) -> list[Row]:
    """VM-UNet, MHS-VM beside it, and VM-UNet on images twice as large; a training step."""
    torch.manual_seed(0)
    model, heads = create_segmenter(scale.vmunet).eval(), create_segmenter(scale.mhsvm).eval()
    image = noise(1, model.in_chans, scale.side, scale.side)
    large = noise(1, model.in_chans, 2 * scale.side, 2 * scale.side)
    runs: Runs = {
        "ours": partial(infer, model, image),
        "identity scans": partial(infer, model, image, "identity"),
        "MHS-VM": partial(infer, heads, image),
        "twice the side": partial(infer, model, large),
        "published layout": partial(infer, model, image, "published"),
    }
    what = f"{scale.vmunet}, inference at {scale.side}², batch 1"
    times = in_turn(what, runs)
    rows = [
        ratio_row(what, "≤ 1.5", times, "ours", "identity scans"),
        ratio_row(what, "≥ 30", times, "published layout", "ours"),
        ratio_row(f"{scale.mhsvm} beside {scale.vmunet}", "≤ 1.5", times, "MHS-VM", "ours"),
        ratio_row(f"{scale.vmunet}, {2 * scale.side}² / {scale.side}²", "≤ 4.4", times, "twice the side", "ours"),
    ]
    steps = {"ours": images_step(scale, "ours"), "identity scans": images_step(scale, "identity")}
    what = f"{scale.vmunet}, training step at {scale.side}², batch {scale.batch}"
    rows.append(ratio_row(what, "≤ 1.7", in_turn(what, steps), "ours", "identity scans"))
    grown = {
        name: fresh_growth(partial(images_step, scale, scan)) / 2**20
        for name, scan in (("ours", "ours"), ("identity scans", "identity"))
    }
    return [*rows, ratio_row(f"{what}, peak memory", "≤ 1.25", grown, "ours", "identity scans", "MiB")]


def of_patches(scale: Scale, in_turn: Callable[..., dict[str, float]]) -> list[Row]:
    """U-Mamba beside MONAI's DynUNet of the same plan."""
    names = ("U-Mamba", "DynUNet")
    sides = "×".join(map(str, scale.plan.patch))
    patch = noise(1, 1, *scale.plan.patch)
    networks = {name: _of_plan(scale, name).eval() for name in names}
    runs: dict[str, Callable[[], object]] = {name: partial(infer, networks[name], patch) for name in names}
    runs["identity scans"] = partial(infer, networks["U-Mamba"], patch, "identity")
    what = f"{scale.umamba}, {len(scale.plan.widths)} stages, inference of {sides}"
    times = in_turn(what, runs, times=3.0)
    rows = [
        ratio_row(what, "≤ 1.6", times, *names),
        ratio_row(what, "printed", times, "U-Mamba", "identity scans"),
        ratio_row(f"{what}, without scans", "printed", times, "identity scans", "DynUNet"),
    ]
    what = f"{scale.umamba}, {len(scale.plan.widths)} stages, training step of {sides}"
    steps = {name: volume_step(scale, name) for name in names}
    rows.append(ratio_row(what, "≤ 2", in_turn(what, steps, times=5.0), *names))
    del networks, runs, steps
    grown = {name: fresh_growth(partial(volume_step, scale, name)) / 2**20 for name in names}
    return [*rows, ratio_row(f"{what}, peak memory", "≤ 1.3", grown, *names, "MiB")]


def of_windows(scale: Scale, in_turn: Callable[..., dict[str, float]]) -> list[Row]:
    """A volume by sliding windows, beside as many patches."""
    torch.manual_seed(0)
    model: Any = create_segmenter(scale.windowed).eval()
    how = Inference(patch=model.plan.patch, batch=1)
    assert how.patch is not None
    count = windows(scale.scanned, how.patch, how.overlap)
    volume, patch = noise(model.in_chans, *scale.scanned), noise(1, model.in_chans, *how.patch)

    def whole() -> None:
        with torch.inference_mode():
            probabilities(model, volume, 3, how)

    def patches() -> None:
        for _ in range(count):
            infer(model, patch)

    what = f"{scale.windowed}, sliding window over {'×'.join(map(str, scale.scanned))}"
    times = in_turn(what, {"volume": whole, f"{count} patches": patches})
    return [ratio_row(what, "≤ 1.15", times, "volume", f"{count} patches")]


def of_scans(scale: Scale, in_turn: Callable[..., dict[str, float]]) -> list[Row]:
    """SegMamba and Swin-UMamba beside themselves without scans, and with those of the published layout."""
    rows = []
    # A route of SegMamba's has projections of its own, so that copies along it and a step-by-step scan are its layout.
    for name, sides, layout in (
        (scale.segmamba, (scale.volume,) * 3, "sequential"),
        (scale.swin, (scale.side,) * 2, "published"),
    ):
        torch.manual_seed(0)
        model: Segmenter = create_segmenter(name).eval()
        x = noise(1, model.in_chans, *sides)
        what = f"{name}, inference at {sides[0]}{'³' if len(sides) == 3 else '²'}, batch 1"
        runs = {
            key: partial(infer, model, x, scan)
            for key, scan in (("ours", "ours"), ("identity scans", "identity"), ("published layout", layout))
        }
        times = in_turn(what, runs)
        rows.append(ratio_row(what, "≤ 1.5", times, "ours", "identity scans"))
        rows.append(ratio_row(what, "≥ 20", times, "published layout", "ours"))
    return rows


PARTS: Mapping[str, Callable[..., list[Row]]] = {
    "images": of_images,
    "windows": of_windows,
    "scans": of_scans,
    "patches": of_patches,
}
"""What is measured in turn, by name."""


def run(
    *,
    parts: Sequence[str] = tuple(PARTS),
    known: Sequence[Row] = (),
    seconds: float = 10.0,
    clock: str = "wall",
    scale: Scale | None = None,
    keep: Callable[[list[Row]], object] = lambda _: None,
) -> list[Row]:
    """All rows.

    Args:
        parts: names of `PARTS` to measure.
        known: rows of an earlier run; those that are measured again are replaced, the others kept.
        seconds: for what is measured in turn, each time; for U-Mamba, which takes seconds for a patch, thrice and for
            its training five times as much.
        clock: "wall", or "processor" while others use the machine.
        scale: of the cases; None for the published sizes.
        keep: called with the rows so far, after each part.
    Raises:
        MissingExtraError: (an ImportError) MONAI is not installed.
    """
    scale = scale or Scale()

    def in_turn(what: str, candidates: Runs, times: float = 1.0) -> dict[str, float]:
        progress(f"{what} …")
        return medians_in_turn(
            candidates,
            seconds=times * seconds,
            min_rounds=1,
            turn=scale.turn,
            clock=CLOCKS[clock],
            once=STEP_BY_STEP,
        )

    rows = list(known)
    for part in parts:
        rows = merged(rows, PARTS[part](scale, in_turn))
        keep(rows)
    return rows

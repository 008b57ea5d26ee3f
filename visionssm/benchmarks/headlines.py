"""The papers' headline results, side by side in one run: Vim beside DeiT, ConvS5 beside ConvLSTM and a Transformer.

Vim (arXiv 2401.09417) reports, on a GPU, 2.8 times DeiT's speed with 86.8 % less memory on images of 1248 × 1248
pixels. ConvS5 (arXiv 2310.19694) reports training three times as fast as ConvLSTM and generating 400 times as fast as
a Transformer. Here all run on this machine's CPU, in turn, so that the ratios stand even where it is busy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import set_fused_attn
from torch import Tensor, nn

import visionssm.backbones  # noqa: F401  registers the models
from visionssm.backbones.convs5.model import ConvS5, ConvS5Config
from visionssm.benchmarks.choices import SIZES
from visionssm.benchmarks.figures import new_figure, save
from visionssm.benchmarks.memory import growth
from visionssm.benchmarks.timing import medians_in_turn, progress
from visionssm.benchmarks.video_peers import ConvLSTM, FrameAttention, FramePredictor, as_large_as, parameters_of

VIM, DEIT, DEIT_MATRIX = "Vim-T", "DeiT-T", "DeiT-T, attention as a matrix"
IMAGE_NETWORKS = {VIM: "vim_tiny", DEIT: "deit_tiny_patch16_224", DEIT_MATRIX: "deit_tiny_patch16_224"}
GOALS = {224: 1.6, 1248: 0.33}
"""Of Vim's time over DeiT's, by image size."""

CONVS5, CONVLSTM, TRANSFORMER = "ConvS5", "ConvLSTM", "Transformer"
VIDEO = ConvS5Config(widths=(16, 32, 64), dim=64, states=64, depth=4, groups=8)
FRAME = 64  # pixels of a side
CLIPS = (8, 16)
CONTEXTS = (16, 64, 256)

Row = dict[str, Any]


def _row(case: str, network: str, beside: str, times: Mapping[str, float], bytes_: Mapping[str, float | None]) -> Row:
    mine, other = bytes_.get(network), bytes_.get(beside)
    return {
        "case": case,
        "network": network,
        "beside": beside,
        "ms": 1e3 * times[network],
        "ms beside": 1e3 * times[beside],
        "time ratio": times[network] / times[beside],
        "MiB": None if mine is None else mine / 2**20,
        "MiB beside": None if other is None else other / 2**20,
        "goal": None,
    }


def create(title: str, size: int) -> nn.Module:
    """One of `IMAGE_NETWORKS` for images of this size."""
    set_fused_attn(title != DEIT_MATRIX)
    try:
        return timm.create_model(IMAGE_NETWORKS[title], img_size=size).eval()
    finally:
        set_fused_attn(True)


def _infer(model: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        model(images)


def images(sizes: Sequence[int] = SIZES, *, seconds: float = 30.0, memory: bool = True) -> list[Row]:
    """Rows of Vim beside DeiT: time in turn, and the most memory that an image takes beside the weights."""
    taken = {title: _memory(title, sizes) if memory else [None] * len(sizes) for title in IMAGE_NETWORKS}
    for title in IMAGE_NETWORKS:
        _infer(create(title, 64), torch.rand(1, 3, 64, 64))  # compiles kernels
    rows = []
    for number, size in enumerate(sizes):
        progress(f"{', '.join(IMAGE_NETWORKS)} at {size}² …")
        image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        runs = {title: partial(_infer, create(title, size), image) for title in IMAGE_NETWORKS}
        times = medians_in_turn(runs, seconds=seconds, turn=0.2)
        bytes_ = {title: taken[title][number] for title in IMAGE_NETWORKS}
        for peer in (DEIT, DEIT_MATRIX):
            row = _row(f"an image of {size}²", VIM, peer, times, bytes_)
            rows.append({**row, "goal": GOALS.get(size) if peer == DEIT else None})
    return rows


def _memory(title: str, sizes: Sequence[int]) -> list[float | None]:
    """Bytes by which a fresh process grows at most, for every size."""
    progress(f"memory of {title} …")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_growths, title, sizes, torch.get_num_threads()).result()


def _growths(title: str, sizes: Sequence[int], threads: int) -> list[float | None]:
    torch.set_num_threads(threads)
    _infer(create(title, 64), torch.rand(1, 3, 64, 64))  # compiles kernels
    return [growth(partial(_infer, create(title, size), torch.rand(1, 3, size, size))) for size in sizes]


def video_networks(config: ConvS5Config = VIDEO) -> dict[str, ConvS5 | FramePredictor]:
    """ConvS5 and its peers of as many parameters."""
    torch.manual_seed(0)
    ours = ConvS5(config)
    size = parameters_of(ours)
    return {
        CONVS5: ours,
        CONVLSTM: as_large_as(size, config, ConvLSTM),
        TRANSFORMER: as_large_as(size, config, FrameAttention),
    }


def _train(model: nn.Module, video: Tensor) -> None:
    model.zero_grad()
    (model(video) - video[:, 1:]).square().mean().backward()


def training(clips: Sequence[int] = CLIPS, *, seconds: float = 30.0, config: ConvS5Config = VIDEO) -> list[Row]:
    """Rows of a training step on one clip."""
    networks = video_networks(config)
    for model in networks.values():
        _train(model, torch.rand(1, 3, FRAME, FRAME, 1))  # compiles kernels
    rows = []
    for frames in clips:
        progress(f"{', '.join(networks)}: training on {frames} frames …")
        video = torch.rand(1, frames + 1, FRAME, FRAME, 1, generator=torch.Generator().manual_seed(0))
        times = medians_in_turn({name: partial(_train, x, video) for name, x in networks.items()}, seconds=seconds)
        rows += [_row(f"a training step on {frames} frames", CONVS5, x, times, {}) for x in (CONVLSTM, TRANSFORMER)]
    return rows


def generation(contexts: Sequence[int] = CONTEXTS, *, seconds: float = 30.0, config: ConvS5Config = VIDEO) -> list[Row]:
    """Rows of one more frame after contexts of several lengths, and what is kept of these.

    What is kept has random values: neither time nor memory depends on them.
    """
    networks = {name: model.eval() for name, model in video_networks(config).items()}
    rows = []
    for frames in contexts:
        progress(f"{', '.join(networks)}: a frame after {frames} …")
        with torch.inference_mode():
            kept = {name: _kept(model, config, frames) for name, model in networks.items()}
            runs = {name: _next_frame(networks[name], kept[name]) for name in networks}
            for call in runs.values():
                call()
        times = medians_in_turn(runs, seconds=seconds, turn=0.1)
        bytes_ = {name: float(sum(x.numel() * x.element_size() for x in _flat(kept[name]))) for name in kept}
        rows += [_row(f"a frame after {frames}", CONVS5, x, times, bytes_) for x in (CONVLSTM, TRANSFORMER)]
    return rows


def _kept(model: nn.Module, config: ConvS5Config, frames: int) -> list[Any]:
    """States of the layers after so many frames."""
    side = FRAME // 2 ** (len(config.widths) - 1)
    if isinstance(model, ConvS5):
        return [torch.randn(1, side, side, config.states // 2, dtype=torch.complex64) for _ in model.layers]
    assert isinstance(model, FramePredictor)
    kept: list[Any] = []
    for layer in model.layers:
        if isinstance(layer, ConvLSTM):
            kept.append(tuple(torch.randn(1, side, side, layer.hidden) for _ in range(2)))
        else:
            assert isinstance(layer, FrameAttention)
            head = config.dim // layer.heads
            kept.append(tuple(torch.randn(1, layer.heads, frames * side * side, head) for _ in range(2)))
    return kept


def _flat(kept: Sequence[Any]) -> list[Tensor]:
    return [x for state in kept for x in (state if isinstance(state, tuple) else (state,))]


def _next_frame(model: nn.Module, kept: list[Any]) -> Callable[[], object]:
    frame = torch.rand(1, FRAME, FRAME, 1)
    if isinstance(model, ConvS5):
        kernels = model.kernels()
        return torch.inference_mode()(lambda: model.step(frame, kept, kernels))
    assert isinstance(model, FramePredictor)
    return torch.inference_mode()(lambda: model.advance(frame[:, None], kept))


def run(
    *,
    sizes: Sequence[int] = SIZES,
    seconds: float = 30.0,
    done: Sequence[Row] = (),
    keep: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """All rows, case by case.

    Args:
        sizes: sides of images.
        seconds: for each case.
        done: rows of a run that was cut off; their cases are not measured again.
        keep: given the rows so far after every case.
    """
    parts: dict[str, Callable[..., list[Row]]] = {f"an image of {size}²": partial(images, (size,)) for size in sizes}
    parts |= {f"a training step on {frames} frames": partial(training, (frames,)) for frames in CLIPS}
    parts |= {f"a frame after {frames}": partial(generation, (frames,)) for frames in CONTEXTS}
    rows = list(done)
    for case, part in parts.items():
        if all(row["case"] != case for row in done):
            rows += part(seconds=seconds)
            keep(rows)
    return rows


def draw(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw times against image size, and against the length of the context, as a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, only = new_figure(figsize=(11.0, 4.5))
    only.remove()
    left, right = figure.subplots(1, 2)
    colours = {VIM: "#c2410c", DEIT: "#1d4ed8", DEIT_MATRIX: "#0f766e"}
    colours |= {CONVS5: "#c2410c", CONVLSTM: "#1d4ed8", TRANSFORMER: "#0f766e"}
    for axes, start, label in (
        (left, "an image of ", "side of the image in pixels"),
        (right, "a frame after ", "frames before the generated one"),
    ):
        lines: dict[str, dict[int, float]] = {}
        for row in rows:
            if row["case"].startswith(start):
                place = int(row["case"].removeprefix(start).rstrip("²"))
                lines.setdefault(row["network"], {})[place] = row["ms"]
                lines.setdefault(row["beside"], {})[place] = row["ms beside"]
        for name, points in lines.items():
            axes.plot(list(points), list(points.values()), marker="o", color=colours[name], label=name)
        places = sorted({place for points in lines.values() for place in points})
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(places, [str(x) for x in places])
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_ylabel("milliseconds")
        axes.grid(color="#e2e8f0", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    left.set_title("An image, batch 1", loc="left")
    right.set_title("The next frame of 64 × 64 pixels", loc="left")
    save(figure, path)

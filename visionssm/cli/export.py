"""Export a model: tools/export.py CHECKPOINT_OR_MODEL [--format onnx|pt2] [--dynamic] [--out FILE]

  visionssm export work_dirs/vmamba_nano_digits/best.pth --dynamic

The first argument is a checkpoint of any task that tools/train.py wrote, an official or bare one (with --model NAME),
or the name of a registered model (untrained weights, unless --pretrained). A classifier becomes image → scores, a
detector image → boxes, scores, labels (and masks; a YOLO detector all its boxes, unless --nms), a segmentor image →
classes of the pixels, a network for medical images image or volume → probabilities, a detector in point clouds points →
boxes, scores, labels (--format pt2). The exported file is run and compared with eager PyTorch before it gets its name.

Exit status: 0 if the file was written, 2 if the model cannot be exported or the arguments are unusable.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from visionssm.cli.errors import stoppable, tell
from visionssm.cli.options import parser_of

if TYPE_CHECKING:
    from torch import Tensor

    from visionssm.integrations.export import Exportable

FORMATS = ("onnx", "pt2")

USUAL_SHAPE = (1, 3, 512, 512)
"""Of an image for a network that does not say what it was trained on."""

LEAST_OPEN_SIDE = 64
"""Exporters take a side of one pixel, as the last map of a smaller image has, for a fixed one."""


class Written(NamedTuple):
    """An exported file.

    Attributes:
        shape: of the input that it was made for.
        open_axes: names of the axes that may have another size.
        difference: the largest one to eager PyTorch.
    """

    path: Path
    shape: tuple[int, ...]
    open_axes: tuple[str, ...]
    difference: float


def find(
    source: str,
    *,
    model_name: str | None = None,
    pretrained: bool = False,
    part: str | None = None,
    nms: bool = False,
) -> Exportable:
    """What is in a checkpoint of any task, or a registered model, in the form that is exported.

    Args:
        part: of the network, for those that have parts with a form of their own.
        nms: leave overlapping boxes out in the file, where it gives them all otherwise.

    Raises:
        FileNotFoundError, CheckpointError, ImportError: see `visionssm.load_predictor`.
        ValueError: the source is neither a file nor a registered model.
        ExportError: what the checkpoint holds cannot be exported.
    """
    import timm

    import visionssm.backbones  # noqa: F401  registers the models
    from visionssm.integrations.export import ExportError
    from visionssm.prediction import load_predictor, registered_classifier

    predictor: Any
    if not Path(source).exists() and timm.is_model(source):
        predictor = registered_classifier(source, pretrained=pretrained)
    else:
        predictor = load_predictor(source, model_name=model_name)
    if not hasattr(predictor, "exportable"):
        raise ExportError(f"{source!r} cannot be exported: a {type(predictor).__name__} has no form for it")
    if nms:
        if part is not None or not hasattr(predictor, "exportable_with_nms"):
            raise ExportError(
                f"{source!r} has no boxes that --nms could leave out: it is for detectors whose files give all boxes "
                "otherwise, as those of the task yolo do"
            )
        return predictor.exportable_with_nms()
    if part is None:
        return predictor.exportable()
    parts = getattr(predictor, "exportable_parts", {})
    if part not in parts:
        raise ExportError(f"{source!r} has no part {part!r}; it has {', '.join(sorted(parts)) or 'none'}")
    return parts[part]()


def export(
    exportable: Exportable,
    path: Path,
    kind: str,
    *,
    dynamic: bool = False,
    size: tuple[int, ...] | None = None,
    batch_size: int = 1,
    opset: int | None = None,
) -> Written:
    """Write a file, which gets its name once it agrees with eager PyTorch.

    Args:
        kind: one of `FORMATS`.
        dynamic: leave open what can be.
        size: (height, width) of the input, or (depth, height, width); None for what the network was made for.
        batch_size: inputs at a time.
        opset: of ONNX; None for the exporter's choice.

    Raises:
        ImportError, ExportError: see `export_onnx`.
        ValueError: the network takes one input at a time, or has no such sides.
    """
    from visionssm.integrations.export import export_archive, export_onnx

    dynamic = dynamic or exportable.always_open
    example = make_example(exportable, dynamic=dynamic, size=size, batch_size=batch_size)
    version = {} if opset is None else {"opset": opset}
    writer: Any = {"onnx": export_onnx, "pt2": export_archive}[kind]
    difference = writer(exportable, path, example, dynamic=dynamic, **version)
    return Written(path, tuple(example.shape), tuple(exportable.axes.values()) if dynamic else (), difference)


def make_example(exportable: Exportable, *, dynamic: bool, size: tuple[int, ...] | None, batch_size: int) -> Tensor:
    """A random input of the shape that is exported."""
    wanted = {"batch": max(2, batch_size) if dynamic else batch_size}  # the exporter would fix a batch of 1
    if size is not None:
        given = dict(zip(("width", "height", "depth"), reversed(size)))
        if unknown := [name for name in given if name not in exportable.axes.values()]:
            raise ValueError(
                f"--size {' '.join(map(str, size))}: this network has no {unknown[-1]} that could be another"
                f"{'' if exportable.shape is None else f', it takes inputs {exportable.shape}'}"
            )
        wanted |= given
    if "batch" not in exportable.axes.values() and batch_size != 1:
        raise ValueError(f"--batch-size {batch_size}: this network takes one {exportable.input} at a time")
    shape = list(exportable.shape or USUAL_SHAPE)
    for axis, name in exportable.axes.items():
        if dynamic and size is None and name in ("height", "width"):
            shape[axis] = max(shape[axis], LEAST_OPEN_SIDE)
        shape[axis] = wanted.get(name, shape[axis])
    return exportable.sample(shape)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("export", __doc__)
    parser.add_argument("source", help="checkpoint file or registered model name")
    parser.add_argument("--model", metavar="NAME", help="registered variant, for official and bare checkpoints")
    parser.add_argument("--pretrained", action="store_true", help="for a model name: the published weights")
    parser.add_argument("--format", choices=FORMATS, default="onnx")
    parser.add_argument(
        "--dynamic", action="store_true", help="leave height and width open, and depth and batch if there are such"
    )
    parser.add_argument("--size", type=int, nargs="+", metavar="N", help="H W or D H W (default: the model's)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--opset", type=int, help="version of ONNX's operators, from 18 on (default: the exporter's)")
    parser.add_argument(
        "--half", action="store_true", help="float16; the file may differ from float32 by 1e-2 of the largest output"
    )
    parser.add_argument(
        "--nms", action="store_true", help="of a YOLO detector: leave overlapping boxes out in the file"
    )
    parser.add_argument("--part", help="of a detector in point clouds: map, the network on the map seen from above")
    parser.add_argument("--out", type=Path, help="file to write (default: SOURCE.onnx or SOURCE.pt2 in this folder)")
    return parser


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    for name, value in (("--batch-size", options.batch_size), ("--size", min(options.size or [1]))):
        if value < 1:
            parser.error(f"{name} must be at least 1, got {value}")
    if options.size and len(options.size) not in (2, 3):
        parser.error(f"--size must be two sides, H W, or three, D H W, got {len(options.size)}")

    if options.opset is not None and options.format != "onnx":
        parser.error(f"--opset is of ONNX's operators; a {options.format} file has none")

    from visionssm.integrations.export import ExportError, in_half

    try:
        exportable = find(
            options.source,
            model_name=options.model,
            pretrained=options.pretrained,
            part=options.part,
            nms=options.nms,
        )
        if options.half:
            exportable = in_half(exportable)
        out = options.out or Path(f"{Path(options.source).stem}.{options.format}")
        print(f"exporting {options.source} to {out} …", file=sys.stderr)
        written = export(
            exportable,
            out,
            options.format,
            dynamic=options.dynamic,
            size=options.size and tuple(options.size),
            batch_size=options.batch_size,
            opset=options.opset,
        )
    except (ExportError, ImportError, ValueError, OSError) as error:
        tell(error)
        return 2
    sizes = f"any {', '.join(written.open_axes)}" if written.open_axes else f"input {written.shape}"
    size = out.stat().st_size / 1e6
    print(f"wrote {out} ({size:.1f} MB), {sizes}; largest difference to eager {written.difference:.1e}")
    return 0

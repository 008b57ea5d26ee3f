"""Export of models to ONNX and to PyTorch's own archive, checked against eager execution.

ONNX graphs hold standard operators only: while exporting, each scan takes the form of a loop (`Scan`) over steps whose
number may be dynamic. The archive (`.pt2`) keeps the package's fast operators, so the program that loads it must
import `visionssm`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.files import complete_or_absent


class ExportError(RuntimeError):
    """A model could not be exported, or the exported model computes something else."""


def export_onnx(model: nn.Module, path: str | Path, image: Tensor, *, dynamic: bool = True) -> float:
    """Write `model` as ONNX and run it in onnxruntime beside eager PyTorch.

    Args:
        model: classifier or `features_only` model, put into evaluation mode.
        path: `.onnx` file; it gets this name only after the check.
        image: (B, C, H, W) example.
        dynamic: leave batch, height and width open; else they are those of `image`.

    Returns:
        The largest difference to eager, relative to the largest output value; at most 1e-4. With `dynamic`, another
        batch and size than those of `image` are checked as well.

    Raises:
        ImportError: the export extra is not installed.
        ExportError: the exporter gave up, or the difference is larger.

    Examples:
        >>> import timm, torch, visionssm
        >>> model = timm.create_model("vmamba_nano_test")
        >>> error = visionssm.export_onnx(model, "model.onnx", torch.randn(1, 3, 64, 64), dynamic=False)
        >>> error < 1e-4
        True
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error.name} is missing; install it with: pip install 'visionssm[export]'") from error

    model = model.eval()
    # Only names: with bounds on the sizes, the exporter's reasoning about odd ones may end with fixed sizes.
    shapes = ({0: "batch", 2: "height", 3: "width"},) if dynamic else None
    with torch.no_grad(), _explained("ONNX"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the exporter's notes on shared dimension names
        program = torch.onnx.export(model, (image,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None

    def save(temporary: Path) -> None:
        program.save(temporary, external_data=False)

    def load(temporary: Path) -> Callable[[Tensor], list[Tensor]]:
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        (graph_input,) = session.get_inputs()
        return lambda x: [torch.from_numpy(y) for y in session.run(None, {graph_input.name: x.numpy()})]

    return _checked(model, Path(path), save, load, _examples(image, dynamic))


def export_archive(model: nn.Module, path: str | Path, image: Tensor, *, dynamic: bool = True) -> float:
    """Write `model` as a `torch.export` archive (`.pt2`), load it again and run it beside eager PyTorch.

    An archive refuses images whose last maps have a side of one pixel, if those of `image` are larger.

    Arguments, result and errors are those of `export_onnx`.

    Examples:
        >>> import timm, torch, visionssm
        >>> model = timm.create_model("vmamba_nano_test")
        >>> error = visionssm.export_archive(model, "model.pt2", torch.randn(1, 3, 64, 64), dynamic=False)
        >>> torch.export.load("model.pt2").module()(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 1000])
    """
    model = model.eval()
    opened = torch.export.Dim.DYNAMIC
    shapes = ({0: opened, 2: opened, 3: opened},) if dynamic else None
    with torch.no_grad(), _explained("a torch.export archive"):
        program = torch.export.export(model, (image,), dynamic_shapes=shapes)

    def save(temporary: Path) -> None:
        torch.export.save(program, temporary)

    def load(temporary: Path) -> Callable[[Tensor], list[Tensor]]:
        loaded = torch.export.load(temporary).module()
        return lambda x: _as_list(loaded(x))

    return _checked(model, Path(path), save, load, _examples(image, dynamic))


def _examples(image: Tensor, dynamic: bool) -> list[Tensor]:
    if not dynamic:
        return [image]
    batch, channels, height, width = image.shape
    generator = torch.Generator().manual_seed(0)
    # The maps of the other size have odd sides where those of common sizes have even ones.
    return [image, torch.randn(batch + 1, channels, height + 37, width + 76, generator=generator)]


@contextmanager
def _explained(target: str) -> Any:
    try:
        yield
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(
            f"this model cannot be exported to {target}: {first_line}\nIf a dynamic size is the cause, export with "
            "fixed sizes (without --dynamic); the full report is in the cause of this error."
        ) from error


def _checked(
    model: nn.Module,
    path: Path,
    save: Callable[[Path], None],
    load: Callable[[Path], Callable[[Tensor], list[Tensor]]],
    examples: list[Tensor],
) -> float:
    """Save under a temporary name, compare with eager on every example, and only then give the file its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as temporary:
        save(temporary)
        exported = load(temporary)
        worst = 0.0
        for image in examples:
            with torch.no_grad():
                actual_and_expected = zip(exported(image), _as_list(model(image)), strict=True)
            for actual, reference in actual_and_expected:
                worst = max(worst, float((actual - reference).abs().max() / reference.abs().max()))
        if not worst <= 1e-4:
            raise ExportError(
                f"the exported model differs from eager by {worst:.2g} of the largest output (limit 1e-4)"
            )
    return worst


def _as_list(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)

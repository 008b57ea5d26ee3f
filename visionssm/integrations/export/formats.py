"""The two kinds of files: written, run, compared with eager PyTorch, and only then given their name."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from visionssm.files import complete_or_absent
from visionssm.integrations.export.archive import ABOUT
from visionssm.integrations.export.exportable import Exportable, ExportError, as_exportable, as_list, largest
from visionssm.integrations.export.onnx_norms import translations
from visionssm.integrations.export.onnx_rules import linear_rules

LEAST_OPSET = 18  # older operators have no form of what the exporter writes
LEAST_OPEN = {"batch": 2, "height": 64, "width": 64}
"""Least sides of the image that a file with open ones is made with: exporters take a side of one, as the last map of a
smaller image has, for fixed."""
ONNX_BYTES = 2**31 - 1  # more than a message of protobuf can be

Runner = Callable[[Tensor], list[Tensor]]


def export_onnx(
    model: nn.Module | Exportable, path: str | Path, image: Tensor, *, dynamic: bool = True, opset: int | None = None
) -> float:
    """Write `model` as ONNX and run it in onnxruntime beside eager PyTorch.

    Args:
        model: classifier, `features_only` model, or what `exportable_detector`, `exportable_segmentor` and
            `exportable_pose` made of another network; put into evaluation mode.
        path: `.onnx` file; it gets this name only after the check.
        image: (B, C, H, W) example, (B, C, D, H, W) for volumes, or of the shape that the `Exportable` has.
        dynamic: leave batch and sides open; else they are those of `image`. Of detectors, the batch is one
            image in any case. An `image` of less than 64 pixels, or a batch of one, is enlarged for the exporter, which
            would take a map of one pixel for fixed; the file is checked at its own size too.
        opset: version of ONNX's operators, from 18 on; None for the exporter's choice.

    Returns:
        The largest difference to eager, relative to the largest output value; at most 1e-4 (1e-2 of what `in_half`
        made). With `dynamic`, another
        batch and size than those of `image` are checked as well.

    Raises:
        ImportError: the export extra is not installed.
        ExportError: the exporter gave up or cannot write this opset, the weights are more than 2 GiB, or the difference
            is larger.

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

    if opset is not None and opset < LEAST_OPSET:
        raise ExportError(f"opset must be at least {LEAST_OPSET}, got {opset}: older ones lack what is needed")
    exportable = _fit(model, "onnx", image, dynamic)
    size = sum(x.numel() * x.element_size() for x in exportable.network.state_dict().values())
    if size > ONNX_BYTES:
        raise ExportError(
            f"the weights of this model are {size / 2**30:.1f} GiB, and a file of ONNX holds 2 GiB: convert the model"
            " to half precision, or write a torch.export archive (.pt2)"
        )
    # Names without bounds: given bounds, the exporter may conclude from odd sizes that a size is fixed.
    shapes = (dict(exportable.axes),) if dynamic else None
    traced = _traced(exportable, image, dynamic)
    outputs = None if exportable.outputs is None else list(exportable.outputs)
    with torch.no_grad(), linear_rules(), _explained("ONNX", dynamic), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the exporter's notes on shared dimension names
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's use of the exporter
        program = torch.onnx.export(
            exportable.network,
            (traced,),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=[exportable.input],
            output_names=outputs,
            opset_version=opset,
            custom_translation_table=dict(translations()),
            verbose=False,
        )
    assert program is not None
    written = program.model.opset_imports.get("")
    if opset is not None and written != opset:
        raise ExportError(f"opset {opset} cannot be written: the exporter's operators are of opset {written}")
    program.model.metadata_props.update(exportable.about)

    def save(temporary: Path) -> None:
        program.save(temporary, external_data=False)

    def load(temporary: Path, changed: Mapping[str, float]) -> Runner:
        source = _with_constants(temporary, changed) if changed else str(temporary)
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        (graph_input,) = session.get_inputs()
        return lambda x: [torch.from_numpy(y) for y in session.run(None, {graph_input.name: x.numpy()})]

    return _checked(exportable, Path(path), save, load, _examples(exportable, image, dynamic))


def _with_constants(path: Path, changed: Mapping[str, float]) -> bytes:
    """A graph with other values of some constants."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    constants = {x.name: x for x in model.graph.initializer}
    for name, value in changed.items():
        old = numpy_helper.to_array(constants[name])
        constants[name].CopyFrom(numpy_helper.from_array(old * 0 + old.dtype.type(value), name))
    return bytes(model.SerializeToString())


def export_archive(model: nn.Module | Exportable, path: str | Path, image: Tensor, *, dynamic: bool = True) -> float:
    """Write `model` as a `torch.export` archive (`.pt2`), load it again and run it beside eager PyTorch.

    An archive with open sides refuses images whose last maps have a side of one pixel.

    Arguments, result and errors are those of `export_onnx`.

    Examples:
        >>> import timm, torch, visionssm
        >>> model = timm.create_model("vmamba_nano_test")
        >>> error = visionssm.export_archive(model, "model.pt2", torch.randn(1, 3, 64, 64), dynamic=False)
        >>> torch.export.load("model.pt2").module()(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 1000])
    """
    exportable = _fit(model, "pt2", image, dynamic)
    shapes = (dict.fromkeys(exportable.axes, torch.export.Dim.DYNAMIC),) if dynamic else None
    traced = _traced(exportable, image, dynamic)
    with torch.no_grad(), _explained("a torch.export archive", dynamic), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's use of the exporter
        program = torch.export.export(exportable.network, (traced,), dynamic_shapes=shapes)
    _forget_places(program)
    count = len(program.graph_signature.user_outputs)
    names = exportable.outputs or tuple(f"output_{number}" for number in range(count))
    about = {**exportable.about, "outputs": json.dumps(names)}

    def save(temporary: Path) -> None:
        # by a handle: the loader's folder is named after the file else, which has a temporary name
        with temporary.open("wb") as file:
            torch.export.save(program, file, extra_files={ABOUT: json.dumps(about)})

    def load(temporary: Path, changed: Mapping[str, float]) -> Runner:
        loaded = torch.export.load(temporary).module()
        with torch.no_grad():
            for name, value in changed.items():
                loaded.get_buffer(name).fill_(value)
        return lambda x: as_list(loaded(x))

    return _checked(exportable, Path(path), save, load, _examples(exportable, image, dynamic))


def _forget_places(program: torch.export.ExportedProgram) -> None:
    """Leave out where in whose folders the lines of the model were, which the exporter notes for every operator."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)


def _fit(model: nn.Module | Exportable, kind: str, image: Tensor, dynamic: bool) -> Exportable:
    """The model in evaluation mode, if this kind of file can hold it."""
    exportable = as_exportable(model, image.ndim)
    if kind in exportable.refused:
        raise ExportError(f"this model cannot be exported to {kind}: {exportable.refused[kind]}")
    if dynamic and not exportable.can_open:
        raise ExportError("no size of this model's input can be left open; export with fixed sizes (without --dynamic)")
    return exportable


def _traced(exportable: Exportable, image: Tensor, dynamic: bool) -> Tensor:
    """The input that the exporter sees: the example, or a larger one whose batch and maps have no side of one.

    The sides of a volume stay as they are, because 64 voxels along each would take long.
    """
    if not dynamic:
        return image
    least = LEAST_OPEN if image.ndim <= 4 else {"batch": LEAST_OPEN["batch"]}
    shape = [max(side, least.get(exportable.axes.get(axis, ""), 0)) for axis, side in enumerate(image.shape)]
    if shape == list(image.shape):
        return image
    return exportable.sample(shape, generator=torch.Generator().manual_seed(0)).to(image)


def _examples(exportable: Exportable, image: Tensor, dynamic: bool) -> list[Tensor]:
    if not dynamic:
        return [image]
    generator = torch.Generator().manual_seed(0)
    # The maps of the other size have odd sides where those of common sizes have even ones.
    longer = {"batch": 1, "depth": 5, "height": 37, "width": 76, "points": 517}
    shape = [side + longer.get(exportable.axes.get(axis, ""), 0) for axis, side in enumerate(image.shape)]
    sides = [axis for axis, name in exportable.axes.items() if name in ("height", "width")]
    for axis in sides:
        shape[axis] = -(-shape[axis] // exportable.multiple) * exportable.multiple
    shapes = [shape]
    if exportable.axes.get(0) == "points":
        shapes.append([1 + shape[0] // 3, *shape[1:]])
    return [image, *(exportable.sample(shape, generator=generator) for shape in shapes)]


@contextlib.contextmanager
def _explained(target: str, dynamic: bool) -> Iterator[None]:
    torch.compiler.reset()  # it compares open sizes with those of loops that were exported before, and fixes them so
    try:
        yield
    except Exception as error:
        remedy = "If an open size is the cause, export with fixed sizes (without --dynamic); the" if dynamic else "The"
        reason = f"this model cannot be exported to {target}: {_first_cause(error)}"
        raise ExportError(f"{reason}\n{remedy} full report is in the cause of this error.") from error


def _first_cause(error: BaseException) -> str:
    """What went wrong, without what the exporter says around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _checked(
    exportable: Exportable,
    path: Path,
    save: Callable[[Path], None],
    load: Callable[[Path, Mapping[str, float]], Runner],
    examples: Sequence[Tensor],
) -> float:
    """Save under a temporary name, compare with eager on every example, and only then give the file its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as temporary:
        save(temporary)
        own = load(temporary, {})
        differences = [exportable.compared(_run(own, example), example) for example in examples]
        if exportable.probe is not None:
            for example in examples:
                with torch.no_grad():
                    changed = exportable.probe(example)
                exported = load(temporary, changed)
                with _buffers(exportable.network, changed):
                    differences.append(exportable.compared(_run(exported, example), example))
        worst = largest(differences)
        if not worst <= exportable.limit:
            raise ExportError(
                f"the exported model differs from eager by {worst:.2g} of the largest output "
                f"(limit {exportable.limit:g}){exportable.doubt and '; '}{exportable.doubt}"
            )
    return worst


def _run(exported: Runner, example: Tensor) -> Sequence[Tensor]:
    """What a file gives for an example; runtimes have errors of their own for a file that does not run at its size."""
    try:
        return exported(example)
    except Exception as error:
        raise ExportError(
            f"the exported model does not run on an input {tuple(example.shape)}: {_first_cause(error)}. Pooling to a "
            "fixed number of cells, for one, has no form in ONNX with open sizes, and an archive with open ones takes "
            "no image whose last map has a side of one pixel: export fixed ones (without --dynamic)"
        ) from error


@contextlib.contextmanager
def _buffers(network: nn.Module, changed: Mapping[str, float]) -> Iterator[None]:
    """Other values of buffers of one number, for a while."""
    old = {name: float(network.get_buffer(name)) for name in changed}
    try:
        for name, value in changed.items():
            network.get_buffer(name).fill_(value)
        yield
    finally:
        for name, value in old.items():
            network.get_buffer(name).fill_(value)

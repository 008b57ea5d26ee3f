"""What a model looks at: routes, effective receptive fields, feature maps and class-activation maps.

The functions that compute return tensors on the CPU; those that draw return matplotlib figures, of no window system.
`tools/visualize.py` calls both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.backbones._plain import PlainBackbone
from visionssm.files import complete_or_absent
from visionssm.kernels import routes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUTES: Mapping[str, Callable[..., Tensor]] = routes.ROUTES

TEXT: Mapping[str, Any] = {"fontsize": 9, "color": "#334155"}


def route_table(name: str, height: int, width: int, option: int | None = None) -> Tensor:
    """A table of `visionssm.kernels.routes` by its name: (K, S, T).

    Args:
        name: one of `ROUTES`.
        height, width: size of the map.
        option: step of `atrous` (2 if None) or side of `window`'s windows (4 if None); most others have none.

    Raises:
        ValueError: there is no such route, it has no option, or the size or the option is below 1.
    """
    if name not in ROUTES:
        raise ValueError(f"name={name!r} is no route; choose one of {', '.join(sorted(ROUTES))}")
    if option is not None and (not routes.takes_option(name) or option < 1):
        having = " and ".join(sorted(filter(routes.takes_option, ROUTES)))
        raise ValueError(f"option={option} does not fit {name}: only {having} have one, of at least 1")
    if not routes.takes_option(name):
        return ROUTES[name](height, width)
    return ROUTES[name](height, width, option or {"window": 4}.get(name, 2))


def last_map(model: nn.Module, images: Tensor) -> Tensor:
    """The last map of the backbone, (B, C, H', W'), with its gradient.

    Raises:
        ValueError: the model has no `forward_intermediates`.
    """
    return stage_maps(model, images)[-1]


def stage_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What every stage (of a plain model, every layer) gives, each (B, C, H', W').

    Args:
        model: with `forward_intermediates`, or a module whose output is a list of maps.
        images: (B, C, H, W), as the model wants them.
    Raises:
        ValueError: it is neither.
    """
    if not hasattr(model, "forward_intermediates"):
        maps = model(images)
        if isinstance(maps, (list, tuple)):
            return list(maps)
        raise ValueError(f"{type(model).__name__} has no forward_intermediates; give a registered or a timm model")
    return model.forward_intermediates(images, intermediates_only=True)  # type: ignore[operator]


def effective_receptive_field(model: nn.Module, images: Tensor) -> Tensor:
    """How strongly each input pixel moves the centre of the last map: (H, W), the largest value 1.

    The gradient of the centre's channel sum with respect to the image, its magnitude summed over channels and
    averaged over the images (Luo et al. 2016, arXiv 1701.04128). One image at a time, to keep memory low.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W), as the model wants them.

    Raises:
        ValueError: no images, or the gradient is zero or not finite.
    """
    if len(images) == 0:
        raise ValueError("images is empty: an effective receptive field needs at least one")
    total = torch.zeros(images.shape[-2:])
    for image in images:
        leaf = image[None].detach().clone().requires_grad_()
        features = last_map(model, leaf)
        centre = features[..., features.shape[-2] // 2, features.shape[-1] // 2].sum()
        (gradient,) = torch.autograd.grad(centre, leaf)
        total += gradient[0].abs().sum(0).cpu()
    if not 0 < float(total.max()) < float("inf"):
        raise ValueError("the gradient of the centre is zero or not finite; the model's weights may be unusable")
    return total / total.max()


def contributing_area(field: Tensor, share: float) -> float:
    """The smallest part of the image, as a fraction of its pixels, whose contributions sum to `share` of all."""
    contributions = field.flatten().double().sort(descending=True).values.cumsum(0)
    needed = int((contributions < share * contributions[-1]).sum()) + 1
    return min(needed, field.numel()) / field.numel()


def class_activation_map(model: nn.Module, image: Tensor, class_index: int | None = None) -> tuple[Tensor, int]:
    """Grad-CAM: where the last map speaks for a class (Selvaraju et al. 2017, arXiv 1610.02391).

    Maps of hierarchical models are those before the head; of plain models, what enters the last layer, since classes
    may be read from a class token or from the corners alone, which later patches do not reach.

    Args:
        model: registered model in evaluation mode.
        image: (1, C, H, W).
        class_index: the class; None for the predicted one.

    Returns:
        (H, W) map in [0, 1], all zero where nothing speaks for the class, and the class.

    Raises:
        ValueError: the model has no such class, or is not of this package's kind.
    """
    if not hasattr(model, "forward_head"):
        raise ValueError(f"{type(model).__name__} has no forward_features and forward_head; give a registered model")
    if not getattr(model, "num_classes", 0):
        raise ValueError("the model has no classifier, so there is no class to explain")
    cut = _plain_cut(model, image) if isinstance(model, PlainBackbone) else _map_cut(model, image)
    activations, leaf, finish = cut
    with torch.enable_grad():
        scores = finish(leaf)
        n_classes = scores.shape[-1]
        if class_index is not None and not 0 <= class_index < n_classes:
            raise ValueError(f"class_index={class_index} is not one of the model's classes, 0 to {n_classes - 1}")
        index = int(scores[0].argmax()) if class_index is None else class_index
        (gradient,) = torch.autograd.grad(scores[0, index], leaf)
    if isinstance(model, PlainBackbone):
        grid = model.patch_embed.grid_size((image.shape[-2], image.shape[-1]))
        activations, gradient = (
            x if x.ndim == 4 else model.patch_tokens(x).unflatten(1, grid) for x in (activations, gradient)
        )
    weights = gradient.mean(dim=(1, 2), keepdim=True)
    cam = (weights * activations).sum(-1).clamp(min=0)  # (1, H', W')
    cam = F.interpolate(cam[None].float(), size=image.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    return (cam / cam.max().clamp(min=torch.finfo(cam.dtype).tiny)).detach().cpu(), index


Cut = tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]  # activations, a leaf to differentiate by, leaf to scores


def _map_cut(model: nn.Module, image: Tensor) -> Cut:
    """Cut before the head: maps are (B, H, W, C)."""
    with torch.no_grad():
        features = model.forward_features(image)  # type: ignore[operator]
    if features.ndim != 4:
        shape = tuple(features.shape)
        raise ValueError(f"features of {type(model).__name__} are {shape}, not a map; give a registered model")
    nchw = getattr(model, "output_fmt", "NCHW") == "NCHW"  # of timm's models those that say nothing

    def finish(leaf: Tensor) -> Tensor:
        return model.forward_head(leaf.permute(0, 3, 1, 2) if nchw else leaf)  # type: ignore[operator]

    leaf = (features.permute(0, 2, 3, 1) if nchw else features).detach().requires_grad_()
    return leaf.detach(), leaf, finish


def _plain_cut(model: PlainBackbone, image: Tensor) -> Cut:
    """Cut before the last layer: the stream is a tensor, or a tuple whose tensors' sum is the residual stream."""
    *before, last = model.layers
    with torch.no_grad():
        stream = model.begin(model.patch_embed(image))
        for layer in before:
            stream = layer(stream)
    if isinstance(stream, Tensor):
        leaf = stream.detach().requires_grad_()
        return leaf.detach(), leaf, lambda x: model.forward_head(model.end(last(x)))
    hidden, *rest = stream
    leaf = hidden.detach().requires_grad_()
    activations = sum((x for x in rest if isinstance(x, Tensor)), hidden)
    return activations, leaf, lambda x: model.forward_head(model.end(last(type(stream)(x, *rest))))


def principal_colours(features: Tensor) -> Tensor:
    """The three directions in which a (C, H, W) map varies most, as colours in [0, 1]: (H, W, 3)."""
    height, width = features.shape[1:]
    pixels = features.flatten(1).T.double()
    pixels = pixels - pixels.mean(0)
    _, _, directions = torch.linalg.svd(pixels, full_matrices=False)
    projected = pixels @ directions[:3].T
    projected = F.pad(projected, (0, 3 - projected.shape[1]))
    low, high = projected.quantile(0.02, dim=0), projected.quantile(0.98, dim=0)
    return ((projected - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).view(height, width, 3).float()


def figure_of_routes(table: Tensor, height: int, width: int, *, title: str = "", up_to: int | None = None) -> Figure:
    """One panel per route: the steps as arrows, early ones dark and late ones light; a dot marks each first step.

    Args:
        table: (K, S, T) route table of a height × width map.
        up_to: draw the first so many steps only, for animations.
    """
    import matplotlib
    from matplotlib.collections import LineCollection

    n_routes = table.shape[0]
    columns = min(n_routes, 2) if n_routes <= 4 else math.ceil(n_routes**0.5)
    rows = -(-n_routes // columns)
    side = 3.0 if n_routes > 1 else 4.2
    figure = _figure(side * columns, side * rows * max(0.5, min(height / width, 1.6)) + 0.5)
    colours = matplotlib.colormaps["plasma"]
    last = max(table.shape[-1] - 1, 1)
    for k, sequences in enumerate(table.tolist()):
        axes = figure.add_subplot(rows, columns, k + 1)
        axes.set(xlim=(-0.6, width - 0.4), ylim=(height - 0.4, -0.6), aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        for y in range(height + 1):
            axes.plot([-0.5, width - 0.5], [y - 0.5] * 2, color="#e2e8f0", linewidth=0.6, zorder=0)
        for x in range(width + 1):
            axes.plot([x - 0.5] * 2, [-0.5, height - 0.5], color="#e2e8f0", linewidth=0.6, zorder=0)
        for sequence in sequences:
            visited = [(t, pixel % width, pixel // width) for t, pixel in enumerate(sequence[:up_to]) if pixel >= 0]
            if not visited:
                continue
            steps = list(pairwise(visited))
            lines = [[a[1:], b[1:]] for a, b in steps]
            shades = [colours(0.9 * b[0] / last) for _, b in steps]
            near = [_walks(a[1:], b[1:]) for a, b in steps]
            widths = [1.6 if close else 0.5 for close in near]
            axes.add_collection(LineCollection(lines, colors=shades, linewidths=widths, zorder=2))
            for (_, x0, y0), (t, x1, y1) in (step for step, close in zip(steps, near, strict=True) if close):
                middle, direction = ((x0 + x1) / 2, (y0 + y1) / 2), (x1 - x0, y1 - y0)
                axes.annotate(
                    "",
                    (middle[0] + 0.1 * direction[0], middle[1] + 0.1 * direction[1]),
                    middle,
                    arrowprops=dict(arrowstyle="-|>", color=colours(0.9 * t / last), shrinkA=0, shrinkB=0, lw=0.8),
                )
            axes.scatter(*visited[0][1:], s=26, color=colours(0.0), zorder=3)
            if up_to is not None:
                axes.scatter(*visited[-1][1:], s=34, color="#c2410c", zorder=4)
        if n_routes > 1:
            axes.set_title(f"route {k + 1}", **TEXT)
    if title:
        figure.suptitle(title, fontsize=11, color="#0f172a")
    return figure


def figure_of_fields(fields: Mapping[str, Tensor]) -> Figure:
    """Effective receptive fields side by side on one logarithmic scale, with the area that holds half of each."""
    from matplotlib.colors import LogNorm

    figure = _figure(3.4 * len(fields) + 0.8, 4.1)
    panels = []
    for i, (name, field) in enumerate(fields.items()):
        axes = figure.add_subplot(1, len(fields), i + 1)
        shown = axes.imshow(field.clamp(min=1e-4).numpy(), cmap="magma", norm=LogNorm(1e-4, 1))
        axes.set(xticks=[], yticks=[])
        half, most = (100 * contributing_area(field, share) for share in (0.5, 0.95))
        axes.set_title(_short(name), fontsize=10, color="#0f172a")
        axes.set_xlabel(f"50 % of the gradient in {half:.1f} % of the pixels\n95 % in {most:.1f} %", **TEXT)
        panels.append(axes)
    bar = figure.colorbar(shown, ax=panels, shrink=0.75, pad=0.02)
    bar.set_label("gradient, of the largest", **TEXT)
    bar.outline.set_visible(False)
    return figure


def figure_of_features(picture: Tensor, maps: Mapping[str, Tensor], *, n_channels: int = 4) -> Figure:
    """A row per stage: mean magnitude, principal components as colours, and the channels that vary most.

    Of a strip, as the frames of a clip are side by side, the panels stand below each other.

    Args:
        picture: (H, W, 3) image in [0, 1], shown before the first row.
        maps: name of a stage to its (C, H', W') map.
    """
    if picture.shape[1] >= 3 * picture.shape[0]:
        return _figure_of_strips(picture, maps, n_channels)
    columns = 3 + n_channels
    figure = _figure(1.55 * columns, 1.55 * len(maps) + 0.35)
    for row, (name, features) in enumerate(maps.items()):
        first = figure.add_subplot(len(maps), columns, row * columns + 1)
        first.axis("off")
        if row == 0:
            first.imshow(picture.numpy())
            first.set_title("image", fontsize=8, color="#334155")
        for column, (title, values, colours) in enumerate(_panels(features, n_channels), start=2):
            axes = figure.add_subplot(len(maps), columns, row * columns + column)
            _show(axes, values, colours)
            if column > 3 or row == 0:
                axes.set_title(title, fontsize=8 if column <= 3 else 7, color="#334155")
            if column == 2:
                told = "\none pixel: no place" if features.shape[-2:] == (1, 1) else ""
                axes.set_ylabel(f"{name}\n{_size_of(features)}{told}", fontsize=8)
    return figure


def _figure_of_strips(picture: Tensor, maps: Mapping[str, Tensor], n_channels: int) -> Figure:
    panels: list[tuple[str, Any, str | None]] = [("image", picture.numpy(), None)]
    for name, features in maps.items():
        of_stage = _panels(features, n_channels)
        panels += [(f"{name}, {_size_of(features)}: {title}", *rest) for title, *rest in of_stage]
    figure = _figure(9.0, len(panels) * (9.0 * picture.shape[0] / picture.shape[1] + 0.28))
    for row, (title, values, colours) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, row)
        _show(axes, values, colours)
        axes.set_title(title, fontsize=8, color="#334155", loc="left", pad=3)
    return figure


def _panels(features: Tensor, n_channels: int) -> list[tuple[str, Any, str | None]]:
    """What is shown of a (C, H, W) map: title, values, and how they are coloured."""
    features = features.detach().float().cpu()
    variances = features.flatten(1).var(dim=1, correction=0)
    strongest = variances.topk(min(n_channels, len(variances))).indices.tolist()
    return [
        ("magnitude", features.square().mean(0).sqrt().numpy(), "magma"),
        ("components 1–3", principal_colours(features).numpy(), None),
        *((f"channel {i}", features[i].numpy(), "viridis") for i in strongest),
    ]


def _size_of(features: Tensor) -> str:
    return f"{features.shape[-2]}×{features.shape[-1]}×{features.shape[0]}"


def _show(axes: Any, values: Any, colours: str | None) -> None:
    axes.imshow(values, cmap=colours, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def figure_of_cam(picture: Tensor, cam: Tensor, *, title: str) -> Figure:
    """The image, and the map over it.

    Args:
        picture: (H, W, 3) image in [0, 1].
        cam: (H, W) map in [0, 1].
    """
    figure = _figure(7.0, 3.4 * min(picture.shape[0] / picture.shape[1], 2.0) + 0.4)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    left.imshow(picture.numpy())
    right.imshow(picture.mean(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    right.imshow(cam.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.2 + 0.55 * cam.numpy())
    for axes in (left, right):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=11, color="#0f172a")
    return figure


def save(figure: Figure, path: str | Path, *, dpi: int = 130) -> None:
    """Write a figure in the format that the suffix names; the file is complete or absent.

    Raises:
        ValueError: matplotlib cannot write this format.
    """
    path = Path(path)
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in formats:
        raise ValueError(f"out={str(path)!r} must end in one of {', '.join(f'.{name}' for name in sorted(formats))}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as temporary:
        figure.savefig(temporary, dpi=dpi)


def save_route_animation(
    table: Tensor, height: int, width: int, path: str | Path, *, title: str = "", n_frames: int = 48
) -> None:
    """Write a GIF in which the routes are walked, all at the same time; its last frame stays for a second."""
    import numpy as np
    from PIL import Image

    path = Path(path)
    steps = table.shape[-1]
    frames = []
    for up_to in sorted({max(1, round(steps * (i + 1) / n_frames)) for i in range(n_frames)}):
        figure = figure_of_routes(table, height, width, title=title, up_to=up_to)
        figure.set_dpi(90)
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
        frames.append(Image.fromarray(pixels).quantize(64))
    path.parent.mkdir(parents=True, exist_ok=True)
    durations = [80] * (len(frames) - 1) + [1200]
    with complete_or_absent(path) as temporary:
        frames[0].save(
            temporary, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, disposal=2
        )


def _walks(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether a step goes along a row or column or to a neighbour, rather than jumping to the next row."""
    dx, dy = abs(a[0] - b[0]), abs(a[1] - b[1])
    return (dx == 0) != (dy == 0) or dx == dy == 1


def _short(name: str, length: int = 34) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'visionssm[train]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure

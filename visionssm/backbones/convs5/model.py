"""ConvS5 as a video model: frames in, the next frames out; trained in parallel over time, generating step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, elu, interpolate

from visionssm.backbones.convs5.keys import checkpoint_filter_fn
from visionssm.backbones.convs5.layer import NORM_EPS, ConvS5Layer, MapGroupNorm, TanhGELU
from visionssm.backbones.convs5.operator import ConvSSM, Kernels
from visionssm.layers import MapConv2d

BRANCH_SCALE = 0.1
"""Weight of the branch in the residual blocks of encoder and decoder."""

States = Sequence[Tensor | None]
"""(B, H, W, P) complex state of every layer; None for zeros."""


class ResidualBlock(nn.Module):
    """skip(x) + 0.1 · conv(elu(norm(conv(elu(norm(x)))))) on (B, H, W, C) maps."""

    def __init__(self, dim: int, out_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = MapGroupNorm(groups, dim, eps=NORM_EPS)
        self.conv1 = MapConv2d(dim, out_dim, 3, padding=1)
        self.norm2 = MapGroupNorm(groups, out_dim, eps=NORM_EPS)
        self.conv2 = MapConv2d(out_dim, out_dim, 3, padding=1)
        self.skip = nn.Identity() if dim == out_dim else MapConv2d(dim, out_dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C')."""
        h = self.conv2(elu(self.norm2(self.conv1(elu(self.norm1(x))))))
        return self.skip(x) + BRANCH_SCALE * h


class FrameEncoder(nn.Module):
    """One residual block per resolution, with 2×2 mean pooling between them."""

    def __init__(self, channels: int, widths: Sequence[int], groups: int) -> None:
        super().__init__()
        self.stem = MapConv2d(channels, widths[0], 3, padding=1)
        before = [widths[0], *widths[:-1]]
        self.blocks = nn.ModuleList(ResidualBlock(i, o, groups) for i, o in zip(before, widths, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) to (B, H/2ⁿ⁻¹, W/2ⁿ⁻¹, widths[-1]) for n widths."""
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            if number:
                x = avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
            x = block(x)
        return x


class FrameDecoder(nn.Module):
    """The encoder backwards, with nearest-neighbour upsampling. Its first convolution has the encoder's first width."""

    def __init__(self, dim: int, channels: int, widths: Sequence[int], groups: int) -> None:
        super().__init__()
        self.stem = MapConv2d(dim, widths[0], 3, padding=1)
        outs = list(reversed(widths))
        before = [widths[0], *outs[:-1]]
        self.blocks = nn.ModuleList(ResidualBlock(i, o, groups) for i, o in zip(before, outs, strict=True))
        self.norm = nn.LayerNorm(widths[0], eps=NORM_EPS)
        self.head = nn.Linear(widths[0], channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) features to (B, H·2ⁿ⁻¹, W·2ⁿ⁻¹, channels) frames in (−1, 1)."""
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            if number:
                x = interpolate(x.permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest").permute(0, 2, 3, 1)
            x = block(x)
        return self.head(self.norm(x)).tanh()


@dataclass(frozen=True)
class ConvS5Config:
    """Sizes and choices of a `ConvS5` model; the defaults are those of the published Moving-MNIST models.

    Attributes:
        channels: of a frame.
        widths: channels of the encoder's resolutions, each half the one before.
        dim: channels of the layers.
        states: of an operator, counting both of a conjugate pair.
        depth: layers.
        groups: of all group norms.
        skips: long skips, the number of the layer that gets the input of the layer with the given number added to its
            own.
        ssm, layer: further arguments of `ConvSSM` and `ConvS5Layer`.
        actions: number of actions that a frame can be the consequence of.
    """

    channels: int = 1
    widths: tuple[int, ...] = (64, 128, 256)
    dim: int = 256
    states: int = 256
    depth: int = 8
    groups: int = 32
    skips: Mapping[int, int] = field(default_factory=dict)
    ssm: Mapping[str, Any] = field(default_factory=dict)
    layer: Mapping[str, Any] = field(default_factory=dict)
    actions: int = 2


class ConvS5(nn.Module):
    """Next-frame prediction with convolutional state-space layers (Smith et al. 2023, arXiv 2310.19694).

    Videos are (B, T, H, W, channels) with values in [−1, 1] and sides divisible by `reduction`. Frames may have the
    number of an action, (B, T) integers, that led to them; None means action 0 throughout.
    """

    takes_blocks_apart = True
    """`kernels` and `step` use the layers' parameters outside of their `forward`; sharded training has to know that."""

    def __init__(self, config: ConvS5Config, act: Callable[[], nn.Module] = TanhGELU) -> None:
        super().__init__()
        self.config = config
        self.reduction = 2 ** (len(config.widths) - 1)
        self.encoder = FrameEncoder(config.channels, config.widths, config.groups)
        self.action_embed = nn.Embedding(config.actions, 1)
        self.action_proj = MapConv2d(config.widths[-1] + 1, config.dim, 1)
        self.layers = nn.ModuleList(_make_layer(config, act) for _ in range(config.depth))
        self.decoder = FrameDecoder(config.dim, config.channels, config.widths, config.groups)
        self._check_skips()

    def forward(self, video: Tensor, actions: Tensor | None = None) -> Tensor:
        """Predict every frame but the first from all frames before it, in parallel over time.

        Args:
            video: (B, T, H, W, channels), T ≥ 2.
            actions: (B, T) or None.

        Returns:
            (B, T − 1, H, W, channels) predictions of frames 1 … T − 1.

        Raises:
            ValueError: the video has another shape.
        """
        features, _ = self.forward_features(video, actions)
        return self.decode(features)

    def forward_features(
        self, video: Tensor, actions: Tensor | None = None, states: States | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Features of the predictions of frames 1 … T − 1, and the states after frame T − 2 was taken in.

        Args:
            video, actions: as of `forward`.
            states: of the layers before the video; None for zeros.

        Returns:
            (B, T − 1, H/r, W/r, dim) features; (B, H/r, W/r, P) complex states.
        """
        self._check_video(video, frames=2)
        following = None if actions is None else actions[:, 1:]
        x = self.encode(video[:, :-1], following)
        inputs: list[Tensor] = []
        after: list[Tensor] = []
        for number, layer in enumerate(self._layers()):
            x = x + inputs[self.config.skips[number]] if number in self.config.skips else x
            inputs.append(x)
            x, state = layer(x, None if states is None else states[number], layer.ssm.discretize())
            after.append(state)
        return x, after

    def encode(self, video: Tensor, actions: Tensor | None) -> Tensor:
        """(B, T, H, W, channels) frames and (B, T) following actions to (B, T, H/r, W/r, dim)."""
        maps = self.encoder(video.flatten(0, 1))  # (B·T, H/r, W/r, C)
        numbers = (
            actions.flatten() if actions is not None else torch.zeros(len(maps), dtype=torch.long, device=maps.device)
        )
        action = self.action_embed(numbers).to(maps.dtype)  # (B·T, 1)
        maps = torch.cat([maps, action[:, None, None].expand(*maps.shape[:3], 1)], -1)
        return self.action_proj(maps).unflatten(0, video.shape[:2])

    def decode(self, features: Tensor) -> Tensor:
        """(B, T, H/r, W/r, dim) features to (B, T, H, W, channels) frames."""
        return self.decoder(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    def kernels(self) -> list[Kernels]:
        """The discretised operators of all layers, for `step`."""
        return [layer.ssm.discretize() for layer in self._layers()]

    def step(
        self, frame: Tensor, states: States, kernels: Sequence[Kernels], action: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Predict the frame after (B, H, W, channels) `frame`, which (B,) `action` leads to.

        Args:
            frame: newest frame.
            states: of the layers before it.
            kernels: what `kernels()` gave, once for all steps.

        Returns:
            (B, H, W, channels) prediction, and the states with `frame` taken in.
        """
        x = self.encode(frame.unsqueeze(1), None if action is None else action.unsqueeze(1)).squeeze(1)
        inputs: list[Tensor] = []
        after: list[Tensor] = []
        for number, layer in enumerate(self._layers()):
            x = x + inputs[self.config.skips[number]] if number in self.config.skips else x
            inputs.append(x)
            x, state = layer.step(x, states[number], kernels[number])
            after.append(state)
        return self.decode(x.unsqueeze(1)).squeeze(1), after

    @torch.no_grad()
    def generate(self, context: Tensor, steps: int, actions: Tensor | None = None) -> Tensor:
        """Continue a video: the context in parallel, then every predicted frame becomes the next input.

        Memory does not grow with the number of steps but for the frames themselves.

        Args:
            context: (B, T, H, W, channels) frames, T ≥ 1.
            steps: frames to predict, ≥ 1.
            actions: (B, T + steps) actions that lead to the frames of the context and to the predicted ones, or None.

        Returns:
            (B, steps, H, W, channels).

        Raises:
            ValueError: the context has another shape, or `steps` or `actions` do not fit it.
        """
        self._check_video(context, frames=1)
        known = context.shape[1]
        if steps < 1:
            raise ValueError(f"steps={steps}: give at least one frame to predict")
        if actions is not None and actions.shape != (len(context), known + steps):
            raise ValueError(
                f"actions has shape {tuple(actions.shape)}; expected (B={len(context)}, T + steps={known + steps})"
            )
        states: States = [None] * len(self.layers)
        if known > 1:
            _, states = self.forward_features(context, None if actions is None else actions[:, :known])
        kernels, frame, frames = self.kernels(), context[:, -1], []
        for number in range(known, known + steps):
            frame, states = self.step(frame, states, kernels, None if actions is None else actions[:, number])
            frames.append(frame)
        return torch.stack(frames, 1)

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
        """The authors' parameters under our names, for `visionssm.load_official`."""
        return checkpoint_filter_fn(state_dict, model)

    def _layers(self) -> Iterator[ConvS5Layer]:
        return cast(Iterator[ConvS5Layer], iter(self.layers))

    def _check_video(self, video: Tensor, frames: int) -> None:
        fits = video.ndim == 5 and video.shape[-1] == self.config.channels and video.shape[1] >= frames
        if not fits or any(side == 0 or side % self.reduction for side in video.shape[2:4]):
            raise ValueError(
                f"video has shape {tuple(video.shape)}; expected (B, T ≥ {frames}, H, W, {self.config.channels}) with "
                f"H and W divisible by {self.reduction}"
            )

    def _check_skips(self) -> None:
        for to, source in self.config.skips.items():
            if not 0 <= source < to < self.config.depth:
                raise ValueError(
                    f"skips has {{{to}: {source}}}; a layer below depth={self.config.depth} gets an earlier one's input"
                )


def _make_layer(config: ConvS5Config, act: Callable[[], nn.Module]) -> ConvS5Layer:
    ssm = ConvSSM(config.dim, config.states, **config.ssm)
    return ConvS5Layer(config.dim, ssm, groups=config.groups, act=act, **config.layer)


def next_frame_losses(predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Squared and absolute error, summed over width and channels and averaged over the rest, and half of either.

    The sum over the width alone is that of the published training.

    Args:
        predicted, target: (B, T, H, W, channels).

    Returns:
        `loss`, `mse` and `l1`, scalars.
    """
    difference = predicted.float() - target.float()
    mse, l1 = difference.square().sum((-2, -1)).mean(), difference.abs().sum((-2, -1)).mean()
    return {"loss": 0.5 * mse + 0.5 * l1, "mse": mse, "l1": l1}


VARIANTS: dict[str, ConvS5Config] = {
    "convs5_mnist300": ConvS5Config(),
    "convs5_mnist600": ConvS5Config(dim=128, states=128),
    "convs5_nano": ConvS5Config(widths=(16, 32), dim=32, states=32, depth=3, groups=8),
}
"""The published Moving-MNIST models, by the length of their training clips, and a small one."""


def create_convs5(name: str, **changes: Any) -> ConvS5:
    """Make a variant with fresh weights.

    Args:
        name: one of `VARIANTS`.
        changes: fields of `ConvS5Config` that differ from the variant's.
    Raises:
        ValueError: there is no such variant.
        TypeError: there is no such field.
    """
    if name not in VARIANTS:
        raise ValueError(f"there is no ConvS5 variant {name!r}; choose one of {', '.join(VARIANTS)}")
    return ConvS5(replace(VARIANTS[name], **changes))

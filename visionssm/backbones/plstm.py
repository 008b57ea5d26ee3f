"""pLSTM for vision (Pöppel et al. 2025, arXiv 2506.11997): linear recurrences whose states travel over the grid itself.

There is no scan order: states move along both image axes at once and gates let them turn. A vision block is a
pair, one layer that propagates states over long distances in any direction (P-mode) and one that diffuses them
(D-mode), each followed by an MLP. The classifier sees the four corners, where the states of the four directions end.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from visionssm.backbones._base import StateDict, imagenet_cfg, register_variants
from visionssm.backbones._plain import PlainBackbone
from visionssm.checkpoints import OfficialCfg
from visionssm.kernels import plstm2d_four_directions
from visionssm.kernels.plstm2d import FOUR_DIRECTIONS, Gates, propagation_gates
from visionssm.layers.layer_scale import branch_scale
from visionssm.layers.leaf import leaf_module
from visionssm.layers.linear import Mlp, linear
from visionssm.layers.tokens import PatchEmbedding, resample_positions

PAPER = {"paper_name": "pLSTM: parallelizable Linear Source Transition Mark networks", "paper_ids": "arXiv:2506.11997"}

N_DIRECTIONS = len(FOUR_DIRECTIONS)
_EPS = 1e-5


class GatePreactivations(nn.Module):
    """What the gates of every direction and head are before their sigmoid or tanh.

    Each gate is a linear function of a small slice of the channels.

    There are 4·heads gates of every kind, numbered head·4 + direction; gate j sees the j-th slice of channels.

    Args:
        dim: channels.
        n_gates: 4·heads.
        biases: initial bias of every kind.
    """

    def __init__(self, dim: int, n_gates: int, biases: Sequence[float], **factory: Any) -> None:
        super().__init__()
        if dim % n_gates:
            raise ValueError(f"embed_dim={dim} does not divide into slices for 4·num_heads={n_gates} gates")
        self.n_gates = n_gates
        self.weight = nn.Parameter(torch.zeros(len(biases), n_gates, dim // n_gates, **factory))
        self.bias = nn.Parameter(torch.tensor(biases, **factory)[:, None].repeat(1, n_gates))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, X, Y, C) map to one (B·heads, 4, X, Y) tensor a kind."""
        slices = x.unflatten(-1, (self.n_gates, -1))
        gates = torch.einsum("bxyjc,njc->nbjxy", slices, self.weight) + self.bias[:, None, :, None, None]
        return tuple(per_head_and_direction(gate) for gate in gates.unbind(0))


class ConstantGatePreactivations(GatePreactivations):
    """Gates that do not see the input: learned constants, the same at every place.

    Args:
        n_unused: the first so many kinds keep a weight that is not used, because the published files hold it.
    """

    def __init__(self, dim: int, n_gates: int, biases: Sequence[float], *, n_unused: int, **factory: Any) -> None:
        super().__init__(dim, n_gates, biases, **factory)
        self.weight = nn.Parameter(self.weight[:n_unused].detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, X, Y, C) map to one (B·heads, 4, X, Y) tensor a kind."""
        gates = self.bias[:, None, :, None, None].expand(-1, x.shape[0], -1, *x.shape[1:3])
        return tuple(per_head_and_direction(gate) for gate in gates.unbind(0))


def per_head_and_direction(gate: Tensor) -> Tensor:
    """(B, heads·4, X, Y) to (B·heads, 4, X, Y)."""
    return gate.reshape(-1, N_DIRECTIONS, *gate.shape[2:])


class PLSTMMixer(nn.Module):
    """A multi-head pLSTM over a map, in four directions.

    The modes differ in their gates: a class names the kinds, those of transitions first, and combines them.

    Args:
        dim: C, channels.
        num_heads: heads; 4·num_heads divides dim.
        gates_see_input: source, transition and mark gates depend on the input.
    """

    transitions: ClassVar[tuple[str, ...]]
    sources: ClassVar[tuple[str, ...]]
    marks: ClassVar[tuple[str, ...]]

    def __init__(self, dim: int, *, num_heads: int, gates_see_input: bool = True, **factory: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        n_transitions, n_others = len(self.transitions), len(self.sources) + len(self.marks)
        n_gates, biases = N_DIRECTIONS * num_heads, [1.0] * n_transitions + [-4.0] * n_others
        self.gates: GatePreactivations
        if gates_see_input:
            self.gates = GatePreactivations(dim, n_gates, biases, **factory)
        else:
            self.gates = ConstantGatePreactivations(dim, n_gates, biases, n_unused=n_transitions, **factory)
        self.direct_bias = nn.Parameter(torch.full((num_heads,), -6.0, **factory))
        self.qkv = nn.Linear(dim, 3 * dim, **factory)
        self.head_norm = HeadNorm(dim, num_heads, **factory)
        self.proj = nn.Linear(dim, dim, bias=False, **factory)
        small_init_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)

    def combine(self, x: Tensor, transitions: list[Tensor], others: list[Tensor]) -> Gates:
        """Combine the gates of the mode's kinds to those that the operator takes.

        Args:
            x: (B, X, Y, C) input.
            transitions: one (B·heads, 4, X, Y, 1, 1) tensor per kind of transition, in the order of `transitions`.
            others: one (B·heads, 4, X, Y, 1, 1, 1) tensor per kind in `sources` and `marks`, in this order.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, X, Y, C) map to the same shape."""
        batch, rows, columns, _ = x.shape
        preactivations = self.gates(x)
        n = len(self.transitions)
        transitions = [torch.tanh(5 * gate)[..., None, None] for gate in preactivations[:n]]
        others = [torch.sigmoid(gate)[..., None, None, None] for gate in preactivations[n:]]
        heads = linear(self.qkv, x).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 4, 1, 2, 5)
        q, k, v = heads.flatten(1, 2).unsqueeze(-1)  # (B·heads, X, Y, P, 1) each
        direct = torch.sigmoid(self.direct_bias).repeat(batch).view(-1, *[1] * 6).expand(-1, rows, columns, 1, 1, 1, 1)
        out = plstm2d_four_directions(q, k, v, self.combine(x, transitions, others), direct)
        out = out.squeeze(-1).unflatten(0, (batch, self.num_heads)).permute(0, 2, 3, 1, 4)
        return linear(self.proj, self.head_norm(out))


@leaf_module  # the operator checks shapes and loops over them
class Propagation(PLSTMMixer):
    """P-mode: the orientation shares every state out between going straight on and turning."""

    transitions = ("transition",)
    sources = ("source",)
    marks = ("mark",)

    def __init__(self, dim: int, *, num_heads: int, **kwargs: Any) -> None:
        super().__init__(dim, num_heads=num_heads, **kwargs)
        factory = {name: kwargs[name] for name in ("device", "dtype") if name in kwargs}
        self.orientation = nn.Linear(dim, N_DIRECTIONS * num_heads, **factory)
        nn.init.zeros_(self.orientation.weight)
        # The authors fill a table (directions, heads) with linspace over the heads, but then use its flat entry
        # head·4 + direction. So the entries are in their order, not in the order that the names suggest.
        with torch.no_grad():
            bias = self.orientation.bias
            bias.copy_(torch.linspace(-2, 2, num_heads, dtype=bias.dtype, device=bias.device).repeat(N_DIRECTIONS))

    def combine(self, x: Tensor, transitions: list[Tensor], others: list[Tensor]) -> Gates:
        """See `PLSTMMixer.combine`."""
        scaled = self.orientation.weight * (0.5 / x.shape[-1])
        angle = nn.functional.linear(x, scaled, self.orientation.bias).permute(0, 3, 1, 2)
        (transition,), (source, mark) = transitions, others
        return propagation_gates(per_head_and_direction(torch.sigmoid(angle)), source, transition, mark)


@leaf_module
class Diffusion(PLSTMMixer):
    """D-mode of left chirality: states go straight on, and from the second axis turn to the first."""

    transitions = ("transition_r", "transition_d", "transition_rd")
    sources = ("source_r", "source_d")
    marks = ("mark_l", "mark_u")
    turn: ClassVar[str] = "transition_ru"

    def combine(self, x: Tensor, transitions: list[Tensor], others: list[Tensor]) -> Gates:
        """See `PLSTMMixer.combine`."""
        straight_r, straight_d, turned = transitions
        source_r, source_d, mark_l, mark_u = others
        return Gates(source_r, source_d, straight_r, straight_d, mark_l, mark_u, **{self.turn: turned})


@leaf_module
class RightDiffusion(Diffusion):
    """D-mode of right chirality: the turn is from the first axis to the second."""

    turn = "transition_dl"


class HeadNorm(nn.Module):
    """RMSNorm of every head by itself, computed in the operator's precision."""

    def __init__(self, dim: int, num_heads: int, **factory: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, **factory))

    def forward(self, x: Tensor) -> Tensor:
        """(…, heads, P) to (…, heads·P) in the dtype of the weight."""
        return rms_norm(x, x.shape[-1:], eps=_EPS).flatten(-2).to(self.weight.dtype) * self.weight


class PLSTMBlock(nn.Module):
    """x + mixer(norm(x)), then x + MLP(norm(x)).

    Args:
        dim: C, channels.
        mixer: the mode.
        num_heads: of the mixer.
        gates_see_input: see `PLSTMMixer`.
        layer_scale: initial value of learned scales of the two branches; None for no scales.
        drop_path: rate at which a branch is dropped.
    """

    def __init__(
        self,
        dim: int,
        mixer: type[PLSTMMixer],
        *,
        num_heads: int,
        gates_see_input: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        **factory: Any,
    ) -> None:
        super().__init__()

        def scale() -> nn.Module:
            return branch_scale(dim, layer_scale, **factory)

        self.norm1 = nn.RMSNorm(dim, eps=_EPS, **factory)
        self.mixer = mixer(dim, num_heads=num_heads, gates_see_input=gates_see_input, **factory)
        self.scale1 = scale()
        self.norm2 = nn.RMSNorm(dim, eps=_EPS, **factory)
        self.mlp = Mlp(dim, hidden_features=-(-4 * dim // 64) * 64, **factory)
        self.scale2 = scale()
        self.drop_path = DropPath(drop_path)
        for layer in (self.mlp.fc1, self.mlp.fc2):
            assert isinstance(layer, nn.Linear)
            small_init_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, X, Y, C) map to the same shape."""
        x = x + self.drop_path(self.scale1(self.mixer(self.norm1(x))))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


class PLSTM(PlainBackbone):
    """pLSTM classifier and feature extractor. Features are (B, rows, columns, C) maps.

    Args:
        in_chans: image channels.
        num_classes: classes, 0 for none.
        global_pool: 'corners' for the four corner tokens side by side, timm's names for the mean or maximum of all
            tokens, '' for none.
        img_size: (H, W) for which the position table is made; it is resampled for images of any other size.
        patch_size: side of a patch in pixels.
        embed_dim: C.
        depth: vision blocks; each has one block per entry of `mixers`.
        num_heads: heads of every mixer.
        mixers: modes of the blocks of a vision block.
        gates_see_input: see `PLSTMMixer`.
        layer_scale: initial value of learned scales of the branches; None for no scales.
        position_table: add learned positions to the patches.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the branches, rising linearly from 0 over the vision blocks; the published
            rates are in `configs/`.
    """

    output_fmt = "NHWC"

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "corners",
        *,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 192,
        depth: int = 6,
        num_heads: int = 3,
        mixers: Sequence[type[PLSTMMixer]] = (Propagation, Diffusion),
        gates_see_input: bool = True,
        layer_scale: float | None = None,
        position_table: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        super().__init__(in_chans=in_chans, num_classes=num_classes, dim=embed_dim, depth=depth, stride=patch_size)
        self.patch_embed = PatchEmbedding(in_chans, embed_dim, patch_size=patch_size, stride=patch_size, **factory)
        self.grid_size = self.patch_embed.grid_size((img_size, img_size) if isinstance(img_size, int) else img_size)
        small_init_(self.patch_embed.proj.weight)
        self.pos_embed = None
        if position_table:
            n_tokens = self.grid_size[0] * self.grid_size[1]
            self.pos_embed = nn.Parameter(torch.empty(1, n_tokens, embed_dim, **factory))
            small_init_(self.pos_embed)
        block = {"num_heads": num_heads, "gates_see_input": gates_see_input, "layer_scale": layer_scale, **factory}
        rates = cast(list[float], calculate_drop_path_rates(drop_path_rate, depth))
        self.layers = nn.ModuleList(
            nn.Sequential(*(PLSTMBlock(embed_dim, mixer, drop_path=rate, **block) for mixer in mixers))
            for rate in rates
        )
        self.norm: nn.Module = nn.RMSNorm(embed_dim, eps=_EPS, **factory)
        self.set_pool(global_pool)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.new_head(num_classes)

    def new_head(self, num_classes: int) -> nn.Module:
        """The published classifier begins close to zero."""
        head = super().new_head(num_classes)
        if isinstance(head, nn.Linear):
            nn.init.trunc_normal_(head.weight, std=2e-5)
        return head

    def no_weight_decay(self) -> set[str]:
        """Positions; all else that is not decayed is a bias or 1-D."""
        return set() if self.pos_embed is None else {"pos_embed"}

    @property
    def pools(self) -> tuple[str, ...]:
        """Names that `global_pool` takes."""
        return ("corners", *super().pools)

    @property
    def head_hidden_size(self) -> int:
        """Channels that the classifier gets."""
        return self.num_features * (4 if self.global_pool == "corners" else 1)

    def pool(self, features: Tensor) -> Tensor:
        """(B, rows, columns, C) to (B, head_hidden_size) by `global_pool`, or unchanged if that is ''."""
        if self.global_pool == "corners":
            return torch.cat([features[:, x, y] for y in (0, -1) for x in (0, -1)], dim=-1)
        return super().pool(features)

    def begin(self, patches: Tensor) -> Tensor:
        """Add the positions to the (B, rows, columns, C) patches."""
        grid = (patches.shape[1], patches.shape[2])
        return patches if self.pos_embed is None else patches + self.positions(grid).unflatten(1, grid)

    def end(self, stream: Tensor) -> Tensor:
        """Normalised map."""
        return self.norm(stream)

    def tap(self, stream: Tensor) -> Tensor:
        """The map after a vision block, as it is."""
        return stream

    def patch_tokens(self, tokens: Tensor) -> Tensor:
        """(B, rows, columns, C) to (B, rows·columns, C)."""
        return tokens.flatten(1, 2)


def small_init_(weight: Tensor) -> None:
    """Normal of standard deviation √(2 / 5n), n being the size of the last axis (Nguyen & Salazar 2019).

    Published models apply it to the patches' convolution as well, where n is then the width of a patch.
    """
    nn.init.normal_(weight, std=(2 / (5 * weight.shape[-1])) ** 0.5)


_GATES = tuple(
    name
    for kind in ("transitions", "sources", "marks")
    for mixer in (Propagation, Diffusion)
    for name in getattr(mixer, kind)
)
_RENAMES = (
    (r"^block_stack\.blocks\.(\d+)\.block(\d+)\.", r"layers.\1.\2."),
    (r"(^|\.)interaction_module\.", r"\1mixer."),
    (r"mixer\.orientation_", "mixer.orientation."),
    (r"mixer\.mhnorm\.scale$", "mixer.head_norm.weight"),
    (r"mixer\.outprojection\.", "mixer.proj."),
    (r"mixer\.direct\.bias$", "mixer.direct_bias"),
    (r"mixer\.(query|key|value_)\.", r"mixer.qkv.\1."),
    (rf"mixer\.({'|'.join(_GATES)})\.(?:eigenvalues_)?(weight|bias)$", r"mixer.gates.\1.\2"),
    (r"(layers\.\d+\.\d+\.|^)norm\.scale$", r"\1norm1.weight"),
    (r"^norm1\.weight$", "norm.weight"),
    (r"norm2\.scale$", "norm2.weight"),
    (r"(scale[12])\.scale$", r"\1.gamma"),
    (r"(^|\.)upproj\.", r"\1mlp.fc1."),
    (r"(^|\.)downproj\.", r"\1mlp.fc2."),
    (r"^pos_embed\.embed$", "pos_embed"),
)
_STACKED = re.compile(r"(.*mixer\.)(qkv|gates)\.(\w+)\.(weight|bias)$")


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours: projections and gates stacked, and positions resampled for the model's grid."""
    out: StateDict = {}
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in state_dict.items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        stacked = _STACKED.match(name)
        if stacked is None:
            out[name] = _shaped(name, value, model)
        else:
            prefix, module, part, kind = stacked.groups()
            parts[f"{prefix}{module}.{kind}"][part] = value
    for name, values in parts.items():
        if ".gates." in name:
            slices = [values[part] for part in _GATES if part in values]
            n_gates = slices[0].numel() if name.endswith("bias") else slices[0].shape[1]
            out[name] = torch.stack([x.reshape((n_gates,) if name.endswith("bias") else (n_gates, -1)) for x in slices])
        else:
            rows = [values[part] for part in ("query", "key", "value_") if part in values]
            out[name] = torch.cat([x.flatten() if name.endswith("bias") else x.reshape(-1, x.shape[-1]) for x in rows])
    return out


def _shaped(name: str, value: Tensor, model: nn.Module) -> Tensor:
    if name == "pos_embed" and value.ndim == 4:
        grid = (value.shape[1], value.shape[2])
        return resample_positions(value.flatten(1, 2), grid, getattr(model, "grid_size", grid))
    if re.search(r"mixer\.(orientation\.bias|head_norm\.weight|direct_bias)$", name):
        return value.flatten()
    return value.reshape(-1, value.shape[-1]) if name.endswith("mixer.orientation.weight") else value


def _cfg(*, grid: int = 14, **overrides: Any) -> OfficialCfg:
    size = {"input_size": (3, 16 * grid, 16 * grid), "pool_size": (grid, grid)}
    names = {"first_conv": "patch_embed.proj", "classifier": "head", "fixed_input_size": True}
    return imagenet_cfg(**PAPER, **{**size, **names, **overrides})


_TINY = {"embed_dim": 192, "num_heads": 3}
_FULL = {"depth": 6, "feature_indices": (1, 2, 4, 5)}
VARIANTS: dict[str, dict[str, Any]] = {
    "plstm_vis_t": {**_TINY, **_FULL},
    "plstm_vis_s": {"embed_dim": 384, "num_heads": 6, **_FULL},
    "plstm_vis_b": {"embed_dim": 768, "num_heads": 12, **_FULL},
    "plstm_vis_t_scale": {**_TINY, **_FULL, "layer_scale": 1e-4},
    "plstm_vis_s_scale": {"embed_dim": 384, "num_heads": 6, **_FULL, "layer_scale": 1e-4},
    "plstm_vis_b_scale": {"embed_dim": 768, "num_heads": 12, **_FULL, "layer_scale": 1e-4},
    "plstm_vis_t_noposemb": {**_TINY, **_FULL, "position_table": False},
    "plstm_vis_t_pmodeonly": {**_TINY, **_FULL, "mixers": (Propagation, Propagation)},
    "plstm_vis_t_dmodeonly": {**_TINY, **_FULL, "mixers": (Diffusion, Diffusion)},
    "plstm_vis_t_conststm": {**_TINY, **_FULL, "gates_see_input": False},
    "plstm_ape": {"embed_dim": 192, "num_heads": 6, **_FULL, "img_size": 192, "num_classes": 2},
    "plstm_nano_test": {"embed_dim": 48, "num_heads": 3, "depth": 4, "patch_size": 32, "layer_scale": 0.1},
}
# The authors have published no weights.
default_cfgs = generate_default_cfgs(
    {
        # The tiny models are those of the ablation; the larger ones were tested on uncropped images.
        **{name: _cfg(crop_pct=224 / 256 if name.startswith("plstm_vis_t") else 1.0) for name in VARIANTS},
        "plstm_ape": _cfg(grid=12, num_classes=2, crop_pct=1.0),
        "plstm_nano_test": _cfg(grid=2, input_size=(3, 64, 64), crop_pct=1.0),
    }
)

register_variants(__name__, PLSTM, VARIANTS, checkpoint_filter_fn)

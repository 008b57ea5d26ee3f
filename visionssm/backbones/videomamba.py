"""VideoMamba (Li et al. 2024, arXiv 2403.06977): a plain stack of bidirectional Mamba blocks over the tokens of a clip.

Patches of all frames become one sequence, frame after frame, each in row-major order; the class token stands before
them. A patch gets the position of its place in the frame and that of its frame. The forward scan begins at the class
token, the backward one ends there: it alone gathers the clip. Unlike in Vim the two scans are summed, not averaged.

The image models (`videomamba_img_*`) are timm's. The video models take (B, C, T, H, W) clips;
`create_video_classifier` makes them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from visionssm.backbones._base import StateDict, imagenet_cfg, register_variants
from visionssm.backbones._stream import Stream, StreamBackbone, StreamBlock, stream_to_ours
from visionssm.backbones._videomamba_checkpoints import LETTERS, LICENCE, REPOSITORY, VIDEO_CHECKPOINTS
from visionssm.checkpoints import OfficialCfg, convert_state_dict, fetch_pretrained, load_official
from visionssm.data.spelling import closest
from visionssm.layers.leaf import leaf_module
from visionssm.layers.mamba import BidirectionalMamba
from visionssm.layers.tokens import PatchEmbedding, PatchGrid

PAPER = {
    "paper_name": "VideoMamba: State Space Model for Efficient Video Understanding",
    "paper_ids": "arXiv:2403.06977",
}


class VideoMambaBackbone(StreamBackbone):
    """What the models of images and of clips have in common.

    Args:
        patch_embed: cuts the input into patches of `embed_dim` channels.
        in_chans: channels of a picture.
        num_classes: classes, 0 for none.
        global_pool: 'token' for the class token, timm's names for the mean or maximum of the patches' tokens, '' for
            none.
        img_size: (H, W) for which the position table is made; it is resampled for pictures of any other size.
        embed_dim: C.
        depth: blocks.
        d_state: N, states per channel.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising linearly from 0 over all blocks; the published rates are in `configs/`.
    """

    def __init__(
        self,
        patch_embed: PatchGrid,
        in_chans: int,
        num_classes: int,
        global_pool: str,
        *,
        img_size: int | tuple[int, int] = 224,
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **factory: Any,
    ) -> None:
        super().__init__(
            patch_embed,
            lambda rate: StreamBlock(
                BidirectionalMamba(embed_dim, d_state=d_state, **factory), embed_dim, rate, **factory
            ),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            img_size=img_size,
            dim=embed_dim,
            depth=depth,
            class_token=True,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            **factory,
        )
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """The published initialisation: all projections truncated normal, those of the steps among them."""
        assert self.pos_embed is not None
        assert self.cls_token is not None
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.zeros_(self.cls_token)
        self.patch_embed.proj.reset_parameters()  # PyTorch's default, unlike Vim's
        for block in self.layers:
            mixer = cast(BidirectionalMamba, block.mixer)
            nn.init.trunc_normal_(mixer.in_proj.weight, std=0.02)
            mixer.out_proj.reset_parameters()
            mixer.out_proj.weight.div_(len(self.layers) ** 0.5)
            for scan in (mixer.ahead, mixer.back):
                nn.init.trunc_normal_(scan.x_proj_weight, std=0.02)
                nn.init.trunc_normal_(scan.dt_projs_weight, std=0.02)
                nn.init.zeros_(scan.dt_projs_bias)

    def no_weight_decay(self) -> set[str]:
        """Positions, class token and the steps' biases."""
        return {"pos_embed", "cls_token", "*.dt_projs_bias"}

    def class_slot(self, n_patches: int) -> int:
        """The class token comes first."""
        return 0


class VideoMambaImage(VideoMambaBackbone):
    """VideoMamba of single images: classifier and feature extractor.

    Args:
        in_chans, num_classes, global_pool, options: see `VideoMambaBackbone`.
        img_size: (H, W) for which the position table is made.
        patch_size: side of a patch in pixels.
        embed_dim: C.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        *,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 192,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        patch_embed = PatchEmbedding(in_chans, embed_dim, patch_size=patch_size, stride=patch_size, **factory)
        options |= {"img_size": img_size, "embed_dim": embed_dim, **factory}
        super().__init__(patch_embed, in_chans, num_classes, global_pool, **options)


@leaf_module  # it checks the size of the clip
class TubeletEmbedding(PatchGrid):
    """One token per tubelet: a patch over some frames in a row.

    Args:
        in_chans: channels of a frame.
        dim: C, channels of a token.
        patch_size: side of a patch in pixels.
        tubelet_size: frames of a tubelet.
    """

    def __init__(self, in_chans: int, dim: int, *, patch_size: int, tubelet_size: int, **factory: Any) -> None:
        super().__init__()
        self.patch_size = self.stride = patch_size
        self.tubelet_size = tubelet_size
        size = (tubelet_size, patch_size, patch_size)
        self.proj = nn.Conv3d(in_chans, dim, size, size, **factory)

    def steps(self, frames: int) -> int:
        """Tubelets one after the other in so many frames.

        Raises:
            ValueError: frames would be left over.
        """
        if frames < 1 or frames % self.tubelet_size:
            raise ValueError(
                f"a clip of {frames} frames cannot be cut into tubelets of {self.tubelet_size}; give a multiple of it"
            )
        return frames // self.tubelet_size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) clip to (B, steps, rows, columns, dim) tokens.

        Raises:
            ValueError: the clip has other dimensions or channels, or cannot be cut.
        """
        if x.dim() != 5 or x.shape[1] != self.proj.in_channels:
            raise ValueError(
                f"expected clips of (B, {self.proj.in_channels}, T, H, W), got a tensor of shape {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise ValueError(f"expected clips in floating point, normalised, got {x.dtype}")
        steps = self.steps(x.shape[2])
        rows, columns = self.grid_size((x.shape[3], x.shape[4]))
        k, p = self.tubelet_size, self.patch_size
        # Tubelets do not overlap, so the convolution is one matrix product.
        x = x[:, :, :, : rows * p, : columns * p].unflatten(4, (columns, p)).unflatten(3, (rows, p))
        x = x.unflatten(2, (steps, k)).permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)  # (B, steps, rows, columns, C·k·p·p)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class VideoMamba(VideoMambaBackbone):
    """VideoMamba of clips: (B, C, T, H, W) to (B, num_classes).

    Args:
        in_chans: channels of a frame.
        num_classes: classes, 0 for none.
        global_pool: see `VideoMambaBackbone`; of the tokens of all frames.
        num_frames: T for which the table of frames is made; it is resampled for clips of another length.
        tubelet_size: frames that a token is of.
        patch_size: side of a patch in pixels.
        embed_dim: C.
        options: others of `VideoMambaBackbone`; `img_size` is that of the frames.

    Raises:
        ValueError: `num_frames` is no multiple of `tubelet_size`, or another argument is out of range.

    Examples:
        >>> import torch, visionssm
        >>> model = visionssm.create_video_classifier("videomamba_nano", num_classes=5).eval()
        >>> model(torch.randn(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    output_formats = ("NCTHW", "NTHWC", "NLC")

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 400,
        global_pool: str = "token",
        *,
        num_frames: int = 8,
        tubelet_size: int = 1,
        patch_size: int = 16,
        embed_dim: int = 192,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        patch_embed = TubeletEmbedding(in_chans, embed_dim, patch_size=patch_size, tubelet_size=tubelet_size, **factory)
        options |= {"embed_dim": embed_dim, **factory}
        super().__init__(patch_embed, in_chans, num_classes, global_pool, **options)
        self.num_frames, self.tubelet_size = num_frames, tubelet_size
        table = torch.zeros(1, patch_embed.steps(num_frames), embed_dim, **factory)
        self.temporal_pos_embedding = nn.Parameter(table)

    def no_weight_decay(self) -> set[str]:
        """The same, and the positions in time."""
        return super().no_weight_decay() | {"temporal_pos_embedding"}

    def begin(self, patches: Tensor) -> Stream:
        """(B, steps, rows, columns, C) patches to the stream of (B, 1 + steps·rows·columns, C)."""
        assert self.cls_token is not None
        first, place = self.positions((patches.shape[2], patches.shape[3])).split_with_sizes(
            [1, patches.shape[2] * patches.shape[3]], dim=1
        )
        time = resample_steps(self.temporal_pos_embedding, patches.shape[1])
        tokens = patches.flatten(2, 3) + place.unsqueeze(1) + time.unsqueeze(2)
        class_token = (self.cls_token + first).expand(tokens.shape[0], -1, -1).to(tokens.dtype)
        return self.stream(torch.cat([class_token, tokens.flatten(1, 2)], dim=1))

    def tap_levels(self, x: Tensor, wanted: Sequence[int], last: int, norm: bool) -> tuple[Tensor, list[Tensor]]:
        """Layers' outputs as (B, steps, rows, columns, C), without the class token."""
        maps = []
        patches = self.patch_embed(x)
        stream = self.begin(patches)
        for i, layer in enumerate(self.layers[: last + 1]):
            stream = self._run(layer, stream)
            if i in wanted:
                tapped = self.end(stream) if norm else self.tap(stream)
                maps.append(self.patch_tokens(tapped).unflatten(1, patches.shape[1:4]))
        return self.end(stream), maps

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCTHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """What the layers give, without the class token.

        Args:
            x: (B, C, T, H, W) clip.
            indices, norm, stop_early, intermediates_only: as of `Backbone.forward_intermediates`.
            output_fmt: NCTHW, NTHWC or NLC (steps·rows·columns tokens).

        Raises:
            ValueError: `output_fmt` is none of these.
        """
        if output_fmt not in self.output_formats:
            raise ValueError(f"output_fmt={output_fmt!r} is not supported; choose one of {self.output_formats}")
        wanted, last_wanted = feature_take_indices(self.n_levels, indices)
        features, maps = self.tap_levels(x, wanted, last_wanted if stop_early else self.n_levels - 1, norm)
        if output_fmt != "NTHWC":
            maps = [y.flatten(1, 3) if output_fmt == "NLC" else y.permute(0, 4, 1, 2, 3) for y in maps]
        return maps if intermediates_only else (features, maps)


def resample_steps(table: Tensor, steps: int) -> Tensor:
    """A (1, steps, C) table of positions in time for another number of steps, linear between the middles of steps."""
    if table.shape[1] == steps:
        return table
    precise = table.to(torch.promote_types(table.dtype, torch.float32))
    resampled = F.interpolate(precise.mT, size=steps, mode="linear", align_corners=False).mT
    return resampled.to(table.dtype)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours; tables made for another square of patches or number of frames are resampled."""
    assert isinstance(model, VideoMambaBackbone)
    out = stream_to_ours(state_dict, model)
    table = out.get("temporal_pos_embedding")
    if table is not None and table.ndim == 3 and isinstance(model, VideoMamba):
        out["temporal_pos_embedding"] = resample_steps(table, model.temporal_pos_embedding.shape[1])
    return out


def start_from_images(model: VideoMamba, source: str | Path | Mapping[str, Any]) -> VideoMamba:
    """Start a model of clips from the weights of an image model, as the authors do before they train on video.

    The middle slice of a tubelet's kernel is the image model's kernel, the others are zero. Classifier and positions in
    time stay as they are.

    Args:
        model: of the image model's width and depth.
        source: the image model's checkpoint, as `load_official` takes it.
    Returns:
        The same model.
    Raises:
        CheckpointError: a weight is missing or has another shape; nothing was changed.
    """
    state = convert_state_dict(model, source)
    kernel = state.get("patch_embed.proj.weight")
    if kernel is not None and kernel.dim() == 4:
        tubelet = model.tubelet_size
        state["patch_embed.proj.weight"] = F.pad(kernel.unsqueeze(2), (0, 0) * 2 + (tubelet // 2, (tubelet - 1) // 2))
    kept = ("head.", "temporal_pos_")
    own = {key: value for key, value in model.state_dict().items() if key.startswith(kept)}
    return load_official(model, {key: value for key, value in state.items() if not key.startswith(kept)} | own)


def _cfg(file: str = "", *, size: int = 224, **overrides: Any) -> OfficialCfg:
    hub = {"hf_hub_id": REPOSITORY, "hf_hub_filename": file, "license": LICENCE} if file else {}
    options = {
        "input_size": (3, size, size),
        "pool_size": (size // 16, size // 16),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "fixed_input_size": True,
        **hub,
    }
    return imagenet_cfg(**PAPER, **{**options, **overrides})


# Tag of the checkpoints of larger images, their side, and how the file ends.
_LARGER = (("448", 448, "_res224to448"), ("576", 576, "_res224to448to576"))
default_cfgs = generate_default_cfgs(
    {
        **{
            f"videomamba_img_{size}.authors_in1k": _cfg(f"videomamba_{letter}_in1k_res224.pth")
            for size, letter in LETTERS.items()
        },
        **{
            f"videomamba_img_{size}.authors_{tag}_in1k": _cfg(f"videomamba_{letter}_in1k{end}.pth", size=side)
            for size, letter in LETTERS.items()
            for tag, side, end in _LARGER
            if size != "base"
        },
        "videomamba_img_nano_test": _cfg(size=64, crop_pct=1.0),
    }
)

_FULL = {"depth": 24, "feature_indices": (5, 11, 17, 23)}
VARIANTS: dict[str, dict[str, Any]] = {
    "videomamba_img_tiny": {"embed_dim": 192, **_FULL},
    "videomamba_img_small": {"embed_dim": 384, **_FULL},
    "videomamba_img_middle": {"embed_dim": 576, "depth": 32, "feature_indices": (7, 15, 23, 31)},
    "videomamba_img_base": {"embed_dim": 768, **_FULL},
    "videomamba_img_nano_test": {"embed_dim": 48, "depth": 4},
}

register_variants(__name__, VideoMambaImage, VARIANTS, checkpoint_filter_fn)

VIDEO_VARIANTS: dict[str, dict[str, Any]] = {
    "videomamba_tiny": {"embed_dim": 192, "depth": 24},
    "videomamba_small": {"embed_dim": 384, "depth": 24},
    "videomamba_middle": {"embed_dim": 576, "depth": 32},
    "videomamba_nano": {"embed_dim": 64, "depth": 4, "img_size": 32, "patch_size": 8},
}
"""Name of a video model to its constructor's arguments."""


def list_video_classifiers(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of video models that match a shell pattern; with `pretrained`, of their checkpoints.

    Examples:
        >>> import visionssm
        >>> visionssm.list_video_classifiers("videomamba_t*")
        ['videomamba_tiny']
        >>> visionssm.list_video_classifiers("*_tiny.ssv2*", pretrained=True)
        ['videomamba_tiny.ssv2_f16', 'videomamba_tiny.ssv2_f16_288', 'videomamba_tiny.ssv2_f8']
    """
    return sorted(fnmatch.filter(VIDEO_CHECKPOINTS if pretrained else VIDEO_VARIANTS, pattern))


def create_video_classifier(name: str, *, pretrained: bool = False, **options: Any) -> VideoMamba:
    """A video model: (B, C, T, H, W) normalised clips to (B, classes) scores before softmax.

    Args:
        name: one of `list_video_classifiers()`; or with the tag of a checkpoint, then with its classes, frames and size
            ("videomamba_tiny.k400_f8").
        pretrained: download and load the checkpoint of the tag; without a tag that of 8 frames of Kinetics-400. Tables
            of positions are resampled where `img_size` or `num_frames` ask for others.
        options: arguments of `VideoMamba` to change.

    Raises:
        ValueError: there is no such model or checkpoint, or an option is out of range.
        TypeError: an option is unknown.
        DownloadError: the checkpoint cannot be fetched.

    Examples:
        >>> import torch, visionssm
        >>> model = visionssm.create_video_classifier("videomamba_nano", num_classes=5, num_frames=16, tubelet_size=2)
        >>> model.eval()(torch.randn(2, 3, 16, 32, 32)).shape
        torch.Size([2, 5])
    """
    variant, _, tag = name.partition(".")
    if variant not in VIDEO_VARIANTS:
        raise ValueError(f"there is no video model {name!r}; closest: {closest(variant, list(VIDEO_VARIANTS))}")
    if not pretrained and not tag:
        return VideoMamba(**{**VIDEO_VARIANTS[variant], **options})
    full = f"{variant}.{tag or 'k400_f8'}"
    if full not in VIDEO_CHECKPOINTS:
        raise ValueError(f"there is no checkpoint {full!r}; closest: {closest(full, list(VIDEO_CHECKPOINTS))}")
    published = VIDEO_CHECKPOINTS[full]
    theirs = {"num_classes": published.classes, "num_frames": published.frames, "img_size": published.size}
    classes = options.pop("num_classes", published.classes)
    model = VideoMamba(**{**VIDEO_VARIANTS[variant], **theirs, **options})
    if pretrained:
        load_official(model, fetch_pretrained(published.cfg))
    if classes != published.classes:
        model.reset_classifier(classes)
    return model

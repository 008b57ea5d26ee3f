"""Vision Mamba, Vim (Zhu et al. 2024, arXiv 2401.09417): a plain stack of bidirectional Mamba blocks.

Patches become tokens, a class token is put into their middle, positions are added, and every block scans the sequence
in both directions. There is no MLP. The sum over the blocks, the residual stream, is kept in float32.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from visionssm.backbones._base import StateDict, imagenet_cfg, register_variants
from visionssm.backbones._stream import Stream, StreamBackbone, StreamBlock, stream_to_ours
from visionssm.checkpoints import OfficialCfg
from visionssm.layers.mamba import BidirectionalMamba
from visionssm.layers.tokens import PatchEmbedding

PAPER = {
    "paper_name": "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model",
    "paper_ids": "arXiv:2401.09417",
}


class VimBlock(StreamBlock):
    """`StreamBlock` with the mean of the two directions."""

    def mix(self, x: Tensor) -> Tensor:
        """(B, T, C) to the same shape. Halving after the projection, which is linear, touches half as many numbers."""
        return 0.5 * self.mixer(x)


class Vim(StreamBackbone):
    """Vim classifier and feature extractor.

    Args:
        in_chans: image channels.
        num_classes: classes, 0 for none.
        global_pool: 'token' for the class token, timm's names for the mean or maximum of the patches' tokens, '' for
            none; None for 'token' if there is a class token and 'avg' if not.
        img_size: (H, W) for which the position table is made; it is resampled for images of any other size.
        patch_size: side of a patch in pixels.
        stride: pixels from one patch to the next.
        embed_dim: C.
        depth: blocks.
        d_state: N, states per channel.
        class_token: put a class token into the middle of the patches.
        tap_residual: `forward_intermediates` shows the residual stream after a block, not the output of its mixer
            alone. The authors' segmentation models take the one (small) or the other (tiny). `feature_cls="fx"` and
            `"hook"` give the mixer's output in either case.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising linearly from 0 over all blocks; the published rates are in `configs/`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str | None = None,
        *,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int = 16,
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        class_token: bool = True,
        tap_residual: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        super().__init__(
            PatchEmbedding(in_chans, embed_dim, patch_size=patch_size, stride=stride, **factory),
            lambda rate: VimBlock(
                BidirectionalMamba(embed_dim, d_state=d_state, **factory), embed_dim, rate, **factory
            ),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            img_size=img_size,
            dim=embed_dim,
            depth=depth,
            class_token=class_token,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            **factory,
        )
        self.tap_residual = tap_residual
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """The published initialisation, where it differs from that of the modules."""
        assert self.pos_embed is not None
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        for block in self.layers:
            mixer = cast(BidirectionalMamba, block.mixer)
            mixer.out_proj.weight.div_(len(self.layers) ** 0.5)
            mixer.back.dt_projs_bias.zero_()

    def no_weight_decay(self) -> set[str]:
        """Positions, class token and the steps' biases; the state matrices are decayed, as by the authors."""
        return {"pos_embed", "cls_token", "*.dt_projs_bias"}

    def class_slot(self, n_patches: int) -> int | None:
        """The class token comes before patch ⌊M/2⌋."""
        return None if self.cls_token is None else n_patches // 2

    def tap(self, stream: Stream) -> Tensor:
        """The mixer's output of a block, or with `tap_residual` the residual stream after it: (B, T, C)."""
        assert self.pos_embed is not None
        tapped = stream.sum(nn.Identity()) if self.tap_residual else stream.hidden
        return tapped.to(self.pos_embed.dtype)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours, and the position table resampled if it was made for another square of patches."""
    assert isinstance(model, Vim)
    return stream_to_ours(state_dict, model)


def _cfg(repository: str = "", file: str = "", *, grid: int = 14, **overrides: Any) -> OfficialCfg:
    hub = {"hf_hub_id": f"hustvl/{repository}", "hf_hub_filename": file} if file else {}
    options = {
        "pool_size": (grid, grid),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "fixed_input_size": True,
        **hub,
    }
    return imagenet_cfg(**PAPER, **{**options, **overrides})


default_cfgs = generate_default_cfgs(
    {
        "vim_tiny.authors_in1k": _cfg("Vim-tiny-midclstok", "vim_t_midclstok_76p1acc.pth"),
        "vim_small.authors_in1k": _cfg("Vim-small-midclstok", "vim_s_midclstok_80p5acc.pth"),
        "vim_base.authors_in1k": _cfg("Vim-base-midclstok", "vim_b_midclstok_81p9acc.pth"),
        "vim_tiny_stride8.authors_in1k": _cfg("Vim-tiny-midclstok", "vim_t_midclstok_ft_78p3acc.pth", grid=27),
        "vim_small_stride8.authors_in1k": _cfg("Vim-small-midclstok", "vim_s_midclstok_ft_81p6acc.pth", grid=27),
        "vim_nano_test": _cfg(grid=4, input_size=(3, 64, 64), crop_pct=1.0),
    }
)

_FULL = {"depth": 24, "feature_indices": (5, 11, 17, 23)}
VARIANTS: dict[str, dict[str, Any]] = {
    "vim_tiny": {"embed_dim": 192, **_FULL},
    "vim_small": {"embed_dim": 384, **_FULL},
    "vim_base": {"embed_dim": 768, **_FULL},
    "vim_tiny_stride8": {"embed_dim": 192, "stride": 8, **_FULL},
    "vim_small_stride8": {"embed_dim": 384, "stride": 8, **_FULL},
    "vim_nano_test": {"embed_dim": 48, "depth": 4},
}

register_variants(__name__, Vim, VARIANTS, checkpoint_filter_fn)

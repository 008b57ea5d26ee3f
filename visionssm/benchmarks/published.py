"""What the models' authors publish, beside what one counter finds: the rows of the README's model table.

Figures are those of the authors' repositories and papers, as printed there. Two are marked as second-hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import timm

from visionssm.benchmarks.flops import multiply_adds_of

SECOND_HAND = "¹"
HEADER = (
    "| family | model | parameters: ours | published | GFLOPs: ours | published | ImageNet-1k top-1 (published) |",
    "|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Published:
    """A variant's published figures; None where there is none.

    Args:
        size: side of the image that the operations are counted for.
        tagged: top-1 of checkpoints that are not the variant's first, by their tag; None where it is not known.
    """

    parameters: str
    gflops: str | None
    top1: str | None
    size: int = 224
    tagged: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """The published variants of a family.

    Args:
        source: Markdown text that leads to the publication.
        variants: registered name to figures.
    """

    source: str
    variants: dict[str, Published]


def _arxiv(name: str, number: str) -> str:
    return f"{name}, [arXiv {number}](https://arxiv.org/abs/{number})"


def _larger(at_448: str, at_576: str) -> Mapping[str, str | None]:
    return {"authors_448_in1k": at_448, "authors_576_in1k": at_576}


_E450: Mapping[str, str | None] = {
    "e450_in1k": None
}  # the other checkpoints, of 450 epochs: their figures were not at hand
_PUBLISHED: Sequence[Family] = (
    Family(
        _arxiv("VMamba", "2401.10166"),
        {
            "vmamba_tiny_s1l8": Published("30.2M", "4.9", "82.6"),
            "vmamba_tiny_s2l5": Published("30.7M", "4.9", "82.5"),
            "vmamba_small_s2l15": Published("50.1M", "8.7", "83.6"),
            "vmamba_small_s1l20": Published("49M", "8.6", "83.3"),
            "vmamba_base_s2l15": Published("88.6M", "15.4", "83.9"),
            "vmamba_base_s1l20": Published("87M", "15.2", "83.8"),
            "vmamba_v0_tiny": Published("22.9M", "5.6", "82.2"),
            "vmamba_v0_small": Published("44M", "11.2", "83.5"),
            "vmamba_v0_base": Published("76M", "18.0", "83.7"),
        },
    ),
    Family(
        _arxiv("Vim", "2401.09417"),
        {
            "vim_tiny": Published("7M", None, "76.1"),
            "vim_small": Published("26M", None, "80.5"),
            "vim_base": Published("98M", None, "81.9"),
            "vim_tiny_stride8": Published("7M", None, "78.3"),
            "vim_small_stride8": Published("26M", None, "81.6"),
        },
    ),
    Family(
        _arxiv("VideoMamba", "2403.06977"),
        {
            "videomamba_img_tiny": Published("7M", "1.1", "76.9", tagged=_larger("79.3", "79.6")),
            "videomamba_img_small": Published("26M", "4.3", "81.2", tagged=_larger("83.2", "83.5")),
            "videomamba_img_middle": Published("74M", "12.7", "82.8", tagged=_larger("83.8", "84.0")),
            "videomamba_img_base": Published("98M", "16.9", "82.7"),
        },
    ),
    Family(
        _arxiv("LocalMamba", "2403.09338"),
        {
            "localvim_tiny": Published("8M", "1.5", "76.2"),
            "localvim_tiny_midcls": Published("8M", "1.5", "77.8"),
            "localvim_small": Published("28M", "4.8", "81.1"),
            "localvmamba_tiny": Published("26M", "5.7", "82.7"),
            "localvmamba_small": Published("50M", "11.4", "83.7"),
        },
    ),
    Family(
        _arxiv("PlainMamba", "2403.17695"),
        {
            "plainmamba_l1": Published("7.3M", None, "77.9"),
            "plainmamba_l2": Published("25.7M", None, "81.6"),
            "plainmamba_l3": Published("50.5M", None, "82.3"),
        },
    ),
    Family(
        _arxiv("EfficientVMamba", "2403.09977"),
        {
            "efficientvmamba_tiny": Published("6M", "0.8", "76.5"),
            "efficientvmamba_small": Published("11M", "1.3", "78.7"),
            "efficientvmamba_base": Published("33M", "4.0", "81.8"),
        },
    ),
    Family(
        _arxiv("MSVMamba", "2405.14174"),
        {
            "msvmamba_nano": Published("7M", "0.9", "77.3"),
            "msvmamba_micro": Published("12M", "1.5", "79.8"),
            "msvmamba_tiny": Published("33M", "4.6", "82.8"),
            "msvmamba_v3_tiny": Published("32M", "5.0", "83.0"),
            "msvmamba_v3_small": Published("50M", "8.8", "84.1"),
            "msvmamba_v3_base": Published("91M", "16.3", "84.4"),
        },
    ),
    Family(
        _arxiv("GroupMamba", "2407.13772"),
        {
            "groupmamba_tiny": Published("23M", f"4.5{SECOND_HAND}", "83.3"),
            "groupmamba_small": Published("34M", f"7.0{SECOND_HAND}", "83.9"),
            "groupmamba_base": Published("57M", f"14{SECOND_HAND}", "84.5"),
        },
    ),
    Family(
        _arxiv("Spatial-Mamba", "2410.15091"),
        {
            "spatialmamba_tiny": Published("27M", "4.5", "83.5"),
            "spatialmamba_small": Published("43M", "7.1", "84.6"),
            "spatialmamba_base": Published("96M", "15.8", "85.3"),
        },
    ),
    Family(
        _arxiv("VSSD", "2407.18559"),
        {
            "vssd_micro": Published("14M", "2.3", "82.5"),
            "vssd_tiny": Published("24M", "4.5", "83.6", tagged={"authors_mesa_in1k": "84.1"}),
            "vssd_small": Published("40M", "7.4", "84.1", tagged={"authors_mesa_in1k": "84.5"}),
            "vssd_base": Published("89M", "16.1", "84.7", tagged={"authors_mesa_in1k": "85.4"}),
        },
    ),
    Family(
        "HRVMamba, the authors' repository",
        {
            "hrvmamba_nano": Published("12M", "1.9", "74.8", size=256),
            "hrvmamba_tiny": Published("14M", "2.8", "78.6", size=256),
            "hrvmamba_small": Published("20M", "5.8", "81.3", size=256),
            "hrvmamba_base": Published("61M", "15.8", "84.2"),
        },
    ),
    Family(
        _arxiv("MambaVision", "2407.08083"),
        {
            "mambavision_tiny": Published("31.8M", "4.4", "82.3"),
            "mambavision_tiny2": Published("35.1M", "5.1", "82.7"),
            "mambavision_small": Published("50.1M", "7.5", "83.3"),
            "mambavision_base": Published("97.7M", "15.0", "84.2", tagged={"authors_in21k_ft_in1k": "84.9"}),
            "mambavision_large": Published("227.9M", "34.9", "85.0", tagged={"authors_in21k_ft_in1k": "86.1"}),
            "mambavision_large2": Published("241.5M", "37.5", "85.3"),
            "mambavision_large2_512_21k": Published("241.5M", "196.3", "87.3", size=512),
            "mambavision_large3_256_21k": Published("739.6M", "122.3", "87.3", size=256),
            "mambavision_large3_512_21k": Published("739.6M", "489.1", "88.1", size=512),
        },
    ),
    Family(
        _arxiv("MambaOut (timm's own)", "2405.07992"),
        {
            "mambaout_femto": Published("7.3M", "1.2", "78.9"),
            "mambaout_kobe": Published("9.1M", "1.5", "80.0"),
            "mambaout_tiny": Published("26.5M", "4.5", "82.7"),
            "mambaout_small": Published("48.5M", "9.0", "84.1"),
            "mambaout_base": Published("84.8M", "15.8", "84.2"),
        },
    ),
    Family(
        _arxiv("EfficientViM (timm's own)", "2411.15241"),
        {
            "efficientvim_m1": Published("6.7M", None, "72.9", tagged=_E450),
            "efficientvim_m2": Published("13.9M", None, "75.4", tagged=_E450),
            "efficientvim_m3": Published("16.6M", None, "77.6", tagged=_E450),
            "efficientvim_m4": Published("19.6M", None, "79.4", size=256, tagged=_E450),
        },
    ),
    Family(
        _arxiv("pLSTM", "2506.11997"),
        {
            "plstm_vis_t": Published("6.3M", "1.41", None),
            "plstm_vis_s": Published("23.3M", "4.92", None),
            "plstm_vis_b": Published("89.1M", "18.2", None),
        },
    ),
)


FAMILIES = tuple(family for family in _PUBLISHED if all(timm.is_model(name) for name in family.variants))
"""Those of which this version of timm has the models: EfficientViM came with 1.0.31."""


def figures() -> dict[str, Published]:
    """The published figures of every variant, by its registered name."""
    return {name: figure for family in FAMILIES for name, figure in family.variants.items()}


def rows(families: Sequence[Family] = FAMILIES) -> Iterator[str]:
    """The Markdown rows of a model table, counted one by one."""
    for family in families:
        for i, (name, figure) in enumerate(family.variants.items()):
            operations, parameters = multiply_adds_of(name, figure.size)
            size = "" if figure.size == 224 else f" ({figure.size}²)"
            cells = (
                family.source if i == 0 else "",
                f"`{name}`",
                f"{parameters / 1e6:.2f}M",
                figure.parameters,
                f"{operations / 1e9:.2f}{size}",
                figure.gflops or "–",
                figure.top1 or "–",
            )
            yield f"| {' | '.join(cells)} |"

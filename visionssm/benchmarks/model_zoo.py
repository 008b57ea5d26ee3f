"""The model zoo of the documentation: one row per published checkpoint, read from the models' registry."""

from __future__ import annotations

from collections.abc import Iterator

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg

import visionssm
from visionssm.benchmarks.published import figures
from visionssm.checkpoints import OfficialCfg

HEADER = (
    "| checkpoint | top-1 (published) | parameters (published) | input | licence of the weights | source | paper "
    "| sha256 |",
    "|---|---|---|---|---|---|---|---|",
)


def checkpoints() -> Iterator[tuple[str, PretrainedCfg]]:
    """Name with tag and registered configuration of every checkpoint that has a source, timm's own models included."""
    timms_own = [name for name in figures() if name not in visionssm.list_models()]
    for name in sorted([*visionssm.list_models(), *timms_own]):
        for tagged in timm.list_models(name, include_tags=True):
            cfg = get_pretrained_cfg(tagged)
            if cfg is not None and _source(cfg):
                yield tagged, cfg


def rows() -> Iterator[str]:
    """The Markdown rows of the table."""
    for tagged, cfg in checkpoints():
        name, _, tag = tagged.partition(".")
        figure = figures().get(name.removesuffix("_plain"))  # HRVMamba's second forms were published with one figure
        top1 = None if figure is None else figure.tagged.get(tag, figure.top1)
        cells = (
            f"`{tagged}`",
            top1 or "–",
            "–" if figure is None else figure.parameters,
            "×".join(map(str, cfg.input_size[1:])),
            cfg.license or "not stated",
            _source(cfg),
            _paper(cfg),
            f"`{sha256[:16]}…`" if (sha256 := getattr(cfg, "sha256", None)) else "not recorded",
        )
        yield f"| {' | '.join(cells)} |"


def _paper(cfg: PretrainedCfg) -> str:
    """The paper's number on arXiv as a Markdown link, or its name."""
    number = str(cfg.paper_ids or "").removeprefix("arXiv:")
    return f"[{number}](https://arxiv.org/abs/{number})" if number else cfg.paper_name or "not stated"


def _source(cfg: PretrainedCfg) -> str:
    """A Markdown link to where the file is; empty if there is none."""
    if isinstance(cfg.url, (tuple, list)):  # address, and name in the cache
        return f"[{cfg.url[1]}]({cfg.url[0]})"
    if cfg.url:
        return f"[{cfg.url.rsplit('/', 1)[-1]}]({cfg.url})"
    if cfg.hf_hub_id:
        file = f", `{cfg.hf_hub_filename}`" if cfg.hf_hub_filename else ""
        return f"[{cfg.hf_hub_id}](https://huggingface.co/{cfg.hf_hub_id}){file}"
    page = cfg.manual_url if isinstance(cfg, OfficialCfg) else None
    return f"[by hand]({page})" if page else ""

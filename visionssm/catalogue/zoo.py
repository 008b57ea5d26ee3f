"""The model zoo of the documentation: one row per published checkpoint, from the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

from timm.models import PretrainedCfg, get_pretrained_cfg

from visionssm.catalogue.info import ModelInfo
from visionssm.catalogue.listing import entries
from visionssm.checkpoints import OfficialCfg

HEADER = (
    "| checkpoint | top-1 (published) | parameters (published) | input | licence of the weights | source | paper "
    "| sha256 |",
    "|---|---|---|---|---|---|---|---|",
)


def checkpoints() -> Iterator[tuple[ModelInfo, PretrainedCfg]]:
    """Every published checkpoint of a classifier, timm's own models that are used here included."""
    for info in entries():
        if info.task == "classification" and info.weights is not None:
            cfg = get_pretrained_cfg(info.name)
            assert cfg is not None
            yield info, cfg


def rows() -> Iterator[str]:
    """The Markdown rows of the table."""
    for info, cfg in checkpoints():
        cells = (
            f"`{info.name}`",
            f"{info.scores['top1']:.1f}" if info.scores else "–",
            info.published_parameters or "–",
            "×".join(map(str, cfg.input_size[1:])),
            info.license or "not stated",
            _source(cfg),
            _paper(cfg),
            f"`{info.sha256[:16]}…`" if info.sha256 else "not recorded",
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


def citations() -> Iterator[str]:
    """A Markdown entry for every paper of the catalogue: its models, and BibTeX where it has a number."""
    models: dict[str, list[str]] = {}
    titles: dict[str, str] = {}
    for info in entries():
        if info.paper is None:
            continue
        models.setdefault(info.paper, []).append(info.architecture)
        cfg = get_pretrained_cfg(info.name) if info.task == "classification" else None
        if cfg is not None and cfg.paper_name:
            titles[info.paper] = cfg.paper_name
    for paper in sorted(models, key=lambda paper: models[paper][0]):
        names = ", ".join(f"`{name}`" for name in sorted(set(models[paper])))
        number = paper.removeprefix("https://arxiv.org/abs/")
        if number == paper:
            yield f"{names}: {paper}"
            continue
        title = f"  title = {{{titles[paper]}}},\n" if paper in titles else ""
        key = models[paper][0].partition("_")[0] + f"20{number[:2]}"
        fields = f"{title}  eprint = {{{number}}},\n  archivePrefix = {{arXiv}},\n  year = {{20{number[:2]}}},\n"
        yield f"{names}: [arXiv {number}]({paper})\n\n```bibtex\n@misc{{{key},\n{fields}}}\n```"

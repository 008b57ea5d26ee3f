"""The list of all models, from the registries of the tasks; nothing is downloaded or built for it."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg

from visionssm import backbones
from visionssm.backbones._videomamba_checkpoints import VIDEO_CHECKPOINTS, VideoCheckpoint
from visionssm.backbones.hrvmamba import PAPER as HRVMAMBA
from visionssm.backbones.videomamba import PAPER as VIDEOMAMBA
from visionssm.backbones.videomamba import VIDEO_VARIANTS
from visionssm.benchmarks.published import figures
from visionssm.catalogue.info import ModelInfo, named_among
from visionssm.checkpoints import OfficialCfg
from visionssm.data.spelling import closest
from visionssm.heads.medical import PUBLISHED, list_segmenters
from visionssm.heads.pose import VARIANTS as POSES
from visionssm.heads.restoration import VARIANTS as RESTORERS
from visionssm.heads.yolo.variants import PUBLISHED as YOLO_PUBLISHED
from visionssm.heads.yolo.variants import list_yolos
from visionssm.pointcloud.variants import MANUAL_URLS, SCORES, list_detectors

YOLO = "https://arxiv.org/abs/2406.05835"
LION = "https://arxiv.org/abs/2407.18232"
MAMBAIR = "https://arxiv.org/abs/2402.15648"
VIDEOS = {"k400": "Kinetics-400", "ssv2": "Something-Something V2", "breakfast": "Breakfast"}


def list_models(pattern: str = "*", *, pretrained: bool = False, task: str | None = "classification") -> list[str]:
    """Names of models that match a shell pattern, in alphabetical order.

    Args:
        pattern: as of a shell; timm's own models that are used here (MambaOut, EfficientViM) are timm's to list.
        pretrained: only those whose weights are published, each checkpoint with its tag.
        task: "classification" (made by `timm.create_model`), "detection" (`create_yolo`), "pose" (`create_pose`),
            "medical" (`create_segmenter`), "restoration" (`create_restorer`), "pointcloud" (`create_detector`),
            "video_classification" (`create_video_classifier`); None for all.

    Raises:
        ValueError: there is no such task.

    Examples:
        >>> import visionssm
        >>> visionssm.list_models("vim_*")
        ['vim_base', 'vim_nano_test', 'vim_small', 'vim_small_stride8', 'vim_tiny', 'vim_tiny_stride8']
        >>> visionssm.list_models("vssd_tiny*", pretrained=True)
        ['vssd_tiny.authors_in1k', 'vssd_tiny.authors_mesa_in1k']
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"there is no task {task!r}; closest: {closest(task, TASKS)}")
    if task == "classification" and not pretrained:
        return backbones.list_models(pattern)  # without tags, and without timm's
    found = [info for info in entries() if task in (None, info.task)]
    if pretrained:
        found = [info for info in found if info.download is not None]
    names = {info.name if pretrained else info.architecture for info in found}
    return sorted(fnmatch.filter(names, pattern))


def model_info(name: str, *, task: str | None = None) -> ModelInfo:
    """What is known of a model: published figures, counts, input, licence and where its weights are.

    Args:
        name: of a model of any task; of one of several checkpoints with its tag, else it is the first.
        task: where a name means a network and its backbone, as Mamba-YOLO's do; the first of `TASKS` if None.

    Raises:
        ValueError: there is no such model.

    Examples:
        >>> import visionssm
        >>> info = visionssm.model_info("mambavision_tiny")
        >>> info.scores, info.license, info.download
        ({'top1': 82.3}, 'cc-by-nc-sa-4.0', 'automatic')
    """
    return named_among(entries(), name, task)


@cache
def entries() -> tuple[ModelInfo, ...]:
    """All models, a checkpoint each where there are several of a model, the first of a model first."""
    return tuple(info for source in TASKS.values() for info in source())


@cache
def counts() -> dict[str, list[int]]:
    """Parameters and multiply-adds by task/name, as `tools/count_models.py` has written them."""
    path = files("visionssm.catalogue") / "counts.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _counted(task: str, name: str) -> tuple[int | None, int | None]:
    parameters, multiply_adds = counts().get(f"{task}/{name}", (None, None))
    return parameters, multiply_adds


def _classifiers() -> Iterator[ModelInfo]:
    for name in sorted({*backbones.list_models(), *figures()}):
        tagged = timm.list_models(name, include_tags=True)
        default = get_pretrained_cfg(name)
        for full in sorted(tagged, key=lambda full: default is None or full != f"{name}.{default.tag}"):
            cfg = get_pretrained_cfg(full)
            if cfg is not None:
                yield _classifier(name, full.removesuffix("."), cfg)


def _classifier(name: str, full: str, cfg: PretrainedCfg) -> ModelInfo:
    parameters, multiply_adds = _counted("classification", name)
    published = figures().get(name.removesuffix("_plain"))  # HRVMamba's second forms were published with one figure
    tag = full.partition(".")[2]
    top1 = None if published is None else published.tagged.get(tag, published.top1)
    number = str(cfg.paper_ids or "").removeprefix("arXiv:")
    weights = address(cfg)
    page = getattr(cfg, "manual_url", None)
    return ModelInfo(
        name=full,
        task="classification",
        parameters=parameters,
        multiply_adds=multiply_adds,
        published_parameters=None if published is None else published.parameters,
        published_gflops=None if published is None else published.gflops,
        scores={} if top1 is None else {"top1": float(top1)},
        input_size=tuple(cfg.input_size),
        crop_pct=cfg.crop_pct,
        interpolation=cfg.interpolation,
        mean=tuple(cfg.mean),
        std=tuple(cfg.std),
        paper=f"https://arxiv.org/abs/{number}" if number else cfg.paper_name,
        license=cfg.license,
        origin=cfg.origin_url,
        weights=weights or page,
        download="automatic" if weights else "by hand" if page else None,
        sha256=getattr(cfg, "sha256", None),
    )


def address(cfg: PretrainedCfg) -> str | None:
    """Where a program gets the file of a checkpoint; None if none can."""
    if cfg.url:
        return cfg.url if isinstance(cfg.url, str) else cfg.url[0]
    if cfg.hf_hub_id:
        page = f"https://huggingface.co/{cfg.hf_hub_id}"
        return f"{page}/resolve/main/{cfg.hf_hub_filename}" if cfg.hf_hub_filename else page
    return None


def _segmenters() -> Iterator[ModelInfo]:
    for name in list_segmenters():
        published = PUBLISHED[name]
        parameters, _ = _counted("medical", name)
        cfg = OfficialCfg(url=published.url or "")
        weights = address(cfg)
        yield ModelInfo(
            name=name,
            task="medical",
            parameters=parameters,
            published_parameters=None if published.parameters is None else f"{published.parameters:,}",
            scores=dict(published.scores),
            paper=published.paper and f"https://arxiv.org/abs/{published.paper}",
            weights=weights or published.manual_url,
            download="automatic" if weights else "by hand" if published.manual_url else None,
            sha256=published.sha256,
        )


def _cloud_detectors() -> Iterator[ModelInfo]:
    for name in list_detectors():
        parameters, _ = _counted("pointcloud", name)
        page = MANUAL_URLS.get(name)
        paper = None if name.endswith("_nano") else LION
        yield ModelInfo(
            name=name,
            task="pointcloud",
            parameters=parameters,
            scores=dict(SCORES.get(name, {})),
            paper=paper,
            weights=page,
            download="by hand" if page else None,
        )


def _pose_estimators() -> Iterator[ModelInfo]:
    for name, variant in sorted(POSES.items()):
        parameters, multiply_adds = _counted("pose", name)
        yield ModelInfo(
            name=name,
            task="pose",
            parameters=parameters,
            multiply_adds=multiply_adds,
            published_parameters=None if variant.parameters is None else f"{variant.parameters}M",
            published_gflops=None if variant.gflops is None else f"{variant.gflops}",
            scores={} if variant.ap is None else {"COCO key-point AP": variant.ap},
            input_size=(3, *variant.crop_size),
            paper=None if variant.ap is None else HRVMAMBA["paper_name"],
            weights=variant.manual_url,
            download="by hand" if variant.manual_url else None,
        )


def _yolos() -> Iterator[ModelInfo]:
    for name in list_yolos():
        parameters, multiply_adds = _counted("detection", name)
        published = YOLO_PUBLISHED.get(name)
        known: dict[str, Any] = {}
        if published is not None:
            known = {
                "published_parameters": f"{published.parameters}M",
                "published_gflops": f"{published.operations}",
                "scores": {"COCO box AP": published.ap, "AP50": published.ap50, "AP75": published.ap75},
                "paper": YOLO,
            }
        yield ModelInfo(
            name=name,
            task="detection",
            parameters=parameters,
            multiply_adds=multiply_adds,
            input_size=(3, 640, 640),
            **known,
        )


def _restorers() -> Iterator[ModelInfo]:
    for name, variant in sorted(RESTORERS.items()):
        parameters, _ = _counted("restoration", name)
        published = variant.parameters
        yield ModelInfo(
            name=name,
            task="restoration",
            parameters=parameters,
            published_parameters=None if published is None else f"{published:,}",
            scores=dict(variant.scores),
            paper=None if published is None else MAMBAIR,
            weights=variant.manual_url,
            download="by hand" if variant.manual_url else None,
        )


def _video_classifiers() -> Iterator[ModelInfo]:
    for variant, arguments in VIDEO_VARIANTS.items():
        checkpoints = {name: known for name, known in VIDEO_CHECKPOINTS.items() if name.partition(".")[0] == variant}
        for name, checkpoint in checkpoints.items():
            yield _video_classifier(name, checkpoint)
        if not checkpoints:
            parameters, multiply_adds = _counted("video_classification", variant)
            side = arguments["img_size"]
            yield ModelInfo(variant, "video_classification", parameters, multiply_adds, input_size=(3, 8, side, side))


def _video_classifier(name: str, checkpoint: VideoCheckpoint) -> ModelInfo:
    parameters, multiply_adds = _counted("video_classification", name)
    data = VIDEOS[name.partition(".")[2].partition("_")[0]]
    return ModelInfo(
        name=name,
        task="video_classification",
        parameters=parameters,
        multiply_adds=multiply_adds,
        scores={f"{data} top1": checkpoint.score},
        input_size=(3, checkpoint.frames, checkpoint.size, checkpoint.size),
        paper=f"https://arxiv.org/abs/{VIDEOMAMBA['paper_ids'].removeprefix('arXiv:')}",
        license=checkpoint.cfg.license,
        origin=f"https://huggingface.co/{checkpoint.cfg.hf_hub_id}",
        weights=address(checkpoint.cfg),
        download="automatic",
    )


TASKS: dict[str, Callable[[], Iterator[ModelInfo]]] = {
    "classification": _classifiers,
    "detection": _yolos,
    "pose": _pose_estimators,
    "medical": _segmenters,
    "restoration": _restorers,
    "pointcloud": _cloud_detectors,
    "video_classification": _video_classifiers,
}
"""Name of a task to what yields its models."""

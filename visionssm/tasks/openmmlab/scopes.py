"""What the engine needs to train and test models of mmdet and mmseg; importing this fills its table of scopes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from visionssm.engine.scopes import SCOPES, Scope
from visionssm.tasks.openmmlab.annotations import check_annotations
from visionssm.tasks.openmmlab.description import checkpoint_meta
from visionssm.tasks.openmmlab.pictures import SamplePicturesHook
from visionssm.tasks.openmmlab.results import RESULTS


def _check_data(scope: str, dataset: Mapping[str, Any]) -> None:
    importlib.import_module(f"{scope}.utils").register_all_modules(init_default_scope=False)
    check_annotations(dataset, scope)


def _without_downloads(cfg: Any) -> None:
    if cfg.model.get("pretrained"):
        cfg.model.pretrained = None
    backbone = cfg.model.get("backbone")
    if isinstance(backbone, Mapping) and backbone.get("type") == "VisionSSM":
        cfg.model.backbone.pretrained = False


def _test_hooks(scope: str, pictures: Path | None, out: Path | None) -> list[Any]:
    hooks: list[Any] = []
    if pictures is not None:
        hooks.append(SamplePicturesHook(test_folder=pictures))
    if out is not None:
        hooks.append(RESULTS[scope](out))
    return hooks


for _scope in ("mmdet", "mmseg"):
    SCOPES[_scope] = Scope(
        check_data=partial(_check_data, _scope),
        describe=checkpoint_meta,
        without_downloads=_without_downloads,
        test_hooks=partial(_test_hooks, _scope),
    )

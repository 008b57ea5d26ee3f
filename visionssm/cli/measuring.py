"""What `visionssm benchmark` measures; see `visionssm.cli.benchmark`, which tells how it is used without PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from visionssm.benchmarks import (
    bounds,
    convolution,
    deformable,
    estimators,
    headlines,
    kernels,
    medical,
    models,
    networks,
    pointcloud,
    pose,
    published,
    restoration,
    segmenters,
    video,
    yolo,
    yolo_sizes,
)
from visionssm.benchmarks.gpu import overhead, scans, setting, stages, tuning
from visionssm.benchmarks.timing import machine, read_rows, table, write_json
from visionssm.kernels.tiles import path_of


def measure(options: argparse.Namespace) -> None:
    """Measure what a command asks for, and print and write the figures.

    Raises:
        ValueError, ImportError, OSError: it cannot be measured, or not be written.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    rows = RUN[options.command](options)
    if rows:
        print(table(models.shown(rows) if options.command == "models" else rows))
        print("\n" + ", ".join(f"{name} {value}" for name, value in machine().items()))
        write_json(options.json, rows)


def _kernels(options: argparse.Namespace) -> list[dict[str, Any]]:
    return kernels.run(batches=tuple(options.batches), seconds=options.seconds)


def _cores(options: argparse.Namespace) -> list[dict[str, Any]]:
    return kernels.cores(seconds=options.seconds)


def _convolution(options: argparse.Namespace) -> list[dict[str, Any]]:
    return convolution.run(batches=tuple(options.batches), seconds=options.seconds)


def _deformable(options: argparse.Namespace) -> list[dict[str, Any]]:
    return deformable.run(batches=tuple(options.batches), seconds=options.seconds)


def _models(options: argparse.Namespace) -> list[dict[str, Any]]:
    setting = models.Setting(
        reference=options.reference,
        batch=options.batch,
        throughput_batch=options.throughput_batch,
        size=options.size,
        seconds=min(options.seconds, 1.0) if options.fast else options.seconds,
        clock=options.clock,
        with_memory=not options.fast,
    )
    rows = models.run(
        options.models,
        setting,
        peers=options.peers,
        done=read_rows(options.json) if options.resume else (),
        keep=lambda so_far: write_json(options.json, so_far),
    )
    if options.png:
        models.scatter(rows, options.png)
    return rows


def _bounds(options: argparse.Namespace) -> list[dict[str, Any]]:
    return bounds.run(
        {name: bounds.PAIRS[name] for name in options.models},
        size=options.size,
        seconds=options.seconds,
        clock=options.clock,
        done=read_rows(options.json) if options.resume else (),
        keep=lambda so_far: write_json(options.json, so_far),
    )


def _published(options: argparse.Namespace) -> list[dict[str, Any]]:
    tables = ((x.HEADER, x.rows()) for x in (published, estimators, yolo_sizes, segmenters))
    print("\n\n".join("\n".join((*header, *rows)) for header, rows in tables))
    return []


def _networks(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.png:
        costs = networks.cost_of_size(seconds=options.seconds)
        networks.draw_cost(costs, options.png)
        print(table(costs))
    return networks.run(options.models or (), seconds=options.seconds)


def _hybrids(options: argparse.Namespace) -> list[dict[str, Any]]:
    return networks.beside_identity(seconds=options.seconds)


def _overhead(options: argparse.Namespace) -> list[dict[str, Any]]:
    return overhead.run()


def _tune(minutes: float) -> None:
    name = torch.cuda.get_device_name(scans.require_gpu())
    rows = tuning.tune(setting.ON_GPU, path_of(name), name, minutes=minutes)
    print(f"{path_of(name)}: {len(rows)} tiles that are faster than the default")


def _headlines(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = headlines.run(
        sizes=options.sizes,
        seconds=options.seconds,
        done=read_rows(options.json) if options.resume else (),
        keep=lambda so_far: write_json(options.json, so_far),
    )
    if options.png:
        headlines.draw(rows, options.png)
    return rows


def _pointcloud(options: argparse.Namespace) -> list[dict[str, Any]]:
    scale = pointcloud.TINY if options.dry_run else None
    rows, parts = pointcloud.run(
        seconds=options.seconds,
        clock=options.clock,
        scale=scale,
        keep=lambda so_far: write_json(options.json, so_far),
    )
    print(table(parts) + "\n")
    write_json(Path(options.json).with_suffix(".parts.json"), parts)
    return rows


def _yolo(options: argparse.Namespace) -> list[dict[str, Any]]:
    return yolo.run(seconds=options.seconds, clock=options.clock, scale=yolo.TINY if options.dry_run else None)


def _pose(options: argparse.Namespace) -> list[dict[str, Any]]:
    scale = pose.TINY if options.dry_run else None
    return pose.run(seconds=options.seconds, clock=options.clock, scale=scale)


def _in_parts(task: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Those of a task's benchmark that are asked for, beside the known figures of the others."""
    rows: list[dict[str, Any]] = task.run(
        parts=options.only or tuple(task.PARTS),
        known=read_rows(options.json) if options.only else (),
        seconds=options.seconds,
        clock=options.clock,
        scale=task.TINY if options.dry_run else None,
        keep=lambda so_far: write_json(options.json, so_far),
    )
    return rows


def _video(options: argparse.Namespace) -> list[dict[str, Any]]:
    return video.run(
        seconds=options.seconds,
        clock=options.clock,
        scale=video.TINY if options.dry_run else None,
        keep=lambda so_far: write_json(options.json, so_far),
    )


def _gpu(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.tune:
        _tune(options.minutes)
        return []
    if not options.all:
        return scans.run(batches=tuple(options.batches), dtypes=tuple(options.dtypes))
    if not options.dry_run:
        scans.require_gpu()
    results = stages.run_all(options.out, minutes=options.minutes, dry_run=options.dry_run, only=options.only)
    print(results.with_suffix(".md").read_text())
    return []


RUN: Mapping[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "kernels": _kernels,
    "cores": _cores,
    "convolution": _convolution,
    "deformable": _deformable,
    "models": _models,
    "bounds": _bounds,
    "published": _published,
    "networks": _networks,
    "hybrids": _hybrids,
    "overhead": _overhead,
    "headlines": _headlines,
    "pointcloud": _pointcloud,
    "yolo": _yolo,
    "pose": _pose,
    "medical": partial(_in_parts, medical),
    "restoration": partial(_in_parts, restoration),
    "video": _video,
    "gpu": _gpu,
}
"""What measures for each command."""

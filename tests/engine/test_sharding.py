"""Sharded training computes what training on one process computes, and its checkpoints are whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.hooks import EMAHook
from PIL import Image
from torch import distributed
from torch.distributed.tensor import DTensor

from tests.engine.shapes import write_detection_config, write_segmentation_config
from tests.engine.tiny import logged, weights, write_config
from tests.forks import run_forked
from visionssm.cli.launch import train
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import ConfigError
from visionssm.engine.sharding import local
from visionssm.engine.shards import BLOCKS, _units, shard
from visionssm.prediction import load_predictor


def write_video_config(folder: Path) -> Path:
    from tests.tasks.video.test_next_frame import CONFIG

    path = folder / "tiny.py"
    path.write_text(CONFIG)
    return path


SHARDED = '\nmodel_wrapper_cfg = dict(type="FullyShard")\n'
OPTIONS: dict[str, Any] = {"train_dataloader.num_batch_per_epoch": 3, "model.drop_path_rate": 0.0}


def train_sharded(
    config: Path,
    work_dir: Path,
    *,
    options: Mapping[str, Any] = OPTIONS,
    resume: str | bool = False,
    then: Callable[[Any], None] = lambda runner: None,
) -> None:
    """Train with two processes, and look at the runner of each with `then`."""

    def work(rank: int) -> None:
        then(train(config, work_dir=work_dir, launcher="pytorch", options=options, resume=resume))

    ended = run_forked(2, work, work_dir.parent / "said")
    assert [x.status for x in ended] == [0, 0], "".join(x.err[-3000:] for x in ended)


def assert_same_training(one: Path, two: Path, checkpoint: str = "epoch_2.pth") -> None:
    expected, found = weights(one / checkpoint), weights(two / checkpoint)
    assert expected.keys() == found.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], atol=1e-3, rtol=1e-2, msg=lambda text, k=key: f"{k}: {text}")


def assert_holds_a_part(runner: Any) -> None:
    """A half, of parameters, moving average and optimizer states each; about, as first dimensions may be odd."""
    parameters = list(runner.model.parameters())
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    states = [state["exp_avg"] for state in runner.optim_wrapper.optimizer.state.values()]
    total = sum(x.numel() for x in parameters)
    for kept in (parameters, list(hook.ema_model.parameters()), states):
        assert sum(x.numel() for x in kept) == total
        assert 0.3 * total < sum(local(x).numel() for x in kept) < 0.7 * total


def test_two_processes_with_shards_train_as_one_does_which_resumes_them(tmp_path: Path) -> None:
    config = write_config(tmp_path, SHARDED)
    one, two, rest = tmp_path / "one", tmp_path / "two", tmp_path / "rest"
    alone = {**OPTIONS, "train_dataloader.batch_size": 32}
    train(config, work_dir=one, options=alone)
    train_sharded(config, two, then=assert_holds_a_part)
    assert logged(two, "loss") == pytest.approx(logged(one, "loss"), abs=1e-4)
    assert logged(two, "grad_norm") == pytest.approx(logged(one, "grad_norm"), rel=1e-3)
    assert_same_training(one, two)

    train(config, work_dir=rest, resume=str(two / "epoch_1.pth"), options=alone)
    assert logged(rest, "loss") == pytest.approx(logged(one, "loss")[3:], abs=1e-4)
    assert_same_training(one, rest)
    predictor = load_predictor(two / "epoch_2.pth")
    assert len(predictor([Image.new("L", (16, 16))])[0].best) == 5


@pytest.mark.slow
def test_two_processes_resume_what_one_began(tmp_path: Path) -> None:
    config = write_config(tmp_path, SHARDED)
    train(config, work_dir=tmp_path / "one", options={**OPTIONS, "train_dataloader.batch_size": 32})
    train_sharded(config, tmp_path / "rest", resume=str(tmp_path / "one/epoch_1.pth"))
    assert logged(tmp_path / "rest", "loss") == pytest.approx(logged(tmp_path / "one", "loss")[3:], abs=1e-4)
    assert_same_training(tmp_path / "one", tmp_path / "rest")


# PyTorch's bfloat16 convolutions may fail on maps of one pixel
LARGE = {f"{loader}.dataset.size": 64 for loader in ("train_dataloader", "val_dataloader")}
VARIANTS = {
    "accumulated": ({"optim_wrapper.accumulative_counts": 2}, ""),
    "clipped by value": ({}, "optim_wrapper['clip_grad'] = dict(type='value', clip_value=0.01)\n"),
    "bfloat16": ({"optim_wrapper.type": "MixedPrecision", **LARGE}, ""),
    "float16": ({"optim_wrapper.type": "MixedPrecision", "optim_wrapper.dtype": "float16"}, ""),
    "lamb": ({"optim_wrapper.optimizer.type": "Lamb"}, ""),
    "sgd": ({"optim_wrapper.optimizer.type": "SGD", "optim_wrapper.optimizer.lr": 0.1}, ""),
    "taught by its average": (
        {"model.type": "MesaClassifier", "model.begin": 1},
        "custom_hooks.append(dict(type='MesaHook'))\n",
    ),
    "best": ({"default_hooks.checkpoint.save_best": "top1"}, ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_config_asks_for_works_with_shards(tmp_path: Path, variant: str) -> None:
    options, more = VARIANTS[variant]
    config = write_config(tmp_path, SHARDED + more)
    one, two = tmp_path / "one", tmp_path / "two"
    train(config, work_dir=one, options={**OPTIONS, **options, "train_dataloader.batch_size": 32})
    train_sharded(config, two, options={**OPTIONS, **options})
    coarse = variant in ("bfloat16", "float16")
    assert logged(two, "loss") == pytest.approx(logged(one, "loss"), abs=2e-2 if coarse else 1e-4)
    if not coarse:
        assert_same_training(one, two)


TASKS = {
    "detection": (write_detection_config, "box_ap50"),
    "segmentation": (write_segmentation_config, "miou"),
    "video": (write_video_config, "error"),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_and_measures_with_shards_as_without(tmp_path: Path, task: str) -> None:
    write, metric = TASKS[task]
    config = write(tmp_path)
    train(config, work_dir=tmp_path / "whole")
    config.write_text(config.read_text() + SHARDED)

    def work(rank: int) -> None:
        train(config, work_dir=tmp_path / "parts", launcher="pytorch")

    (ended,) = run_forked(1, work, tmp_path / "said")
    assert ended.status == 0, ended.err[-3000:]
    for name in ("loss", metric):
        assert logged(tmp_path / "parts", name) == pytest.approx(logged(tmp_path / "whole", name), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model_wrapper_cfg.unit": "blocks"}, "unknown key 'unit' in model_wrapper_cfg; closest: 'units'|units"),
        ({"compile": True}, "compile does not go with"),
    ],
)
def test_what_shards_do_not_go_with_is_refused_by_name(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    config = load_config(write_config(tmp_path, SHARDED), options)
    with pytest.raises(ConfigError, match=message):
        check_config(config)


@pytest.fixture
def single_group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("single_group")
def test_lists_that_no_model_has_are_refused() -> None:
    wrapper = {"type": "FullyShard", "units": ["floors"]}
    with pytest.raises(ConfigError, match=r"units=\['floors'\]: the model has no list"):
        shard(torch.nn.Linear(2, 2), torch.device("cpu"), {"model_wrapper_cfg": wrapper})


QUICK = ("vim_nano_test", "vmamba_nano_test")


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[] if x in QUICK else [pytest.mark.slow]) for x in timm.list_models("*_nano_test")]
)
@pytest.mark.usefixtures("single_group")
def test_every_family_computes_the_same_with_shards(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    images = torch.randn(2, *model.default_cfg["input_size"])
    expected = model(images)
    expected.square().mean().backward()
    gradients = {key: x.grad for key, x in model.named_parameters() if x.grad is not None}
    model.zero_grad(set_to_none=True)
    sharded = shard(model, torch.device("cpu"), {"model_wrapper_cfg": {"type": "FullyShard"}})
    found = sharded(images)
    found.square().mean().backward()
    torch.testing.assert_close(found, expected)
    for key, x in sharded.named_parameters():
        assert isinstance(x, DTensor)
        if key in gradients:
            torch.testing.assert_close(x.grad.full_tensor(), gradients[key], atol=1e-5, rtol=1e-4, msg=key)


def test_largest_model_comes_together_block_by_block() -> None:
    with torch.device("meta"):
        model = timm.create_model("mambavision_large3_256_21k")
    sizes = [sum(x.numel() for x in unit.parameters()) for unit in _units(model, BLOCKS)]
    whole = sum(x.numel() for x in model.parameters())
    assert len(sizes) == sum(len(stage.blocks) for stage in model.layers)
    assert sum(sizes) > 0.95 * whole  # the rest, stem, downsampling and classifier, is together during the whole pass
    assert max(sizes) < 0.1 * whole

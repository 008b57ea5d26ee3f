"""A trained supernet of LocalMamba ends in a table of routes, and in a configuration that trains with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from visionssm.backbones.localmamba_search import RouteShares, route_shares
from visionssm.cli import search_routes
from visionssm.cli.launch import train
from visionssm.engine.config import check_config, load_config

ROUTES = ("h", "h_flip", "v", "w2")


def _supernet(name: str = "localvim_nano_test", **options: Any) -> Any:
    return timm.create_model(name, **{"directions": ROUTES, "weighted": True, **options})


@pytest.mark.parametrize("name", ["localvim_nano_test", "localvmamba_nano_test"])
@torch.no_grad()
def test_shares_are_the_softmax_of_a_layers_weights_and_the_largest_are_chosen_in_the_order_of_the_list(
    name: str,
) -> None:
    model = _supernet(name)
    sums = [module for module in model.modules() if hasattr(module, "multi_scan")]
    for i, mixer in enumerate(sums):
        mixer.multi_scan.weights.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]).roll(i).view(-1, 1, 1, 1))
    found = route_shares(model)
    assert found.directions == (ROUTES,) * 4
    assert found.shares[0] == pytest.approx(torch.tensor([0.0, 1.0, 2.0, 3.0]).softmax(0).tolist())
    assert found.chosen(2) == (("v", "w2"), ("h", "w2"), ("h", "h_flip"), ("h_flip", "v"))
    assert found.chosen(4) == (ROUTES,) * 4


def test_of_equal_routes_the_first_are_chosen() -> None:
    assert route_shares(_supernet()).chosen(2) == (("h", "h_flip"),) * 4


def test_table_has_a_column_for_each_route_and_stars_where_one_is_chosen() -> None:
    shares = RouteShares((("h", "v"), ("v", "w2")), ((0.25, 0.75), (0.6, 0.4)))
    assert shares.rows(1) == (["layer", "h", "v", "w2"], [["0", "25.0 ", "75.0*", ""], ["1", "", "60.0*", "40.0 "]])


@pytest.mark.parametrize("count", [0, 5])
def test_as_many_routes_as_there_are_can_be_chosen(count: int) -> None:
    with pytest.raises(ValueError, match=f"count={count} must be from 1 to 4"):
        route_shares(_supernet()).chosen(count)


def test_models_without_weights_of_routes_are_refused() -> None:
    for name in ("localvim_nano_test", "vmamba_nano_test"):
        with pytest.raises(ValueError, match="no supernet"):
            route_shares(timm.create_model(name))


@torch.no_grad()
def test_weights_that_are_not_finite_are_refused() -> None:
    model = _supernet()
    model.layers[2].mixer.multi_scan.weights[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        route_shares(model)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a supernet that was trained on a few small images."""
    folder = tmp_path_factory.mktemp("supernet") / "run"
    options = {
        "model.model_kwargs": {"img_size": 8, "patch_size": 4, "depth": 2, "directions": ROUTES, "weighted": True},
        "train_dataloader.dataset.size": 8,
        "val_dataloader.dataset.size": 8,
        "train_dataloader.batch_size": 256,
        "train_cfg.max_epochs": 1,
        "optim_wrapper.optimizer.lr": 0.1,
    }
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr("mmengine.runner.runner.collect_env", dict)  # runs start without describing the machine
        train("localvim_nano_supernet_digits", work_dir=folder, options=options)
    return folder / "best.pth"


def test_a_trained_supernet_gives_a_configuration_with_its_routes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base.py"
    base.write_text('_base_ = "localvim_nano_digits.py"\nmodel = dict(model_kwargs=dict(depth=2))\n')
    configs = Path(str(load_config("localvim_nano_digits").filename)).parent
    base.write_text(base.read_text().replace("localvim_nano", f"{configs.as_posix()}/localvim_nano"))
    routes, config = tmp_path / "routes.json", tmp_path / "searched.py"
    words = [str(checkpoint), "--count", "2", "--out", str(routes), "--base", str(base), "--config", str(config)]
    assert search_routes.main(words) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].split() == ["layer", *ROUTES]
    assert [line.count("*") for line in told[1:3]] == [2, 2]
    written = json.loads(routes.read_text())
    assert [sum(row) for row in written["supernet"]["shares"]] == pytest.approx([1.0, 1.0])
    assert max(max(row) for row in written["supernet"]["shares"]) > 0.251  # training moved them
    model = timm.create_model("localvim_nano_test", depth=2, directions=written["directions"])
    searched = load_config(config)
    check_config(searched)
    assert tuple(map(tuple, searched.model.model_kwargs.directions)) == model.directions
    assert searched.model.model_kwargs.patch_size == 4


@pytest.mark.parametrize(
    "base, message",
    [
        ("vmamba_nano_digits", "is no LocalVim or LocalVMamba"),
        ("localvim_nano_digits", "each of 4 layers"),
        ("localvim_nano_digit", "localvim_nano_digits"),
    ],
)
def test_a_base_that_cannot_take_the_routes_is_refused_and_nothing_is_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], base: str, message: str
) -> None:
    config = tmp_path / "searched.py"
    assert search_routes.main([str(checkpoint), "--count", "2", "--base", base, "--config", str(config)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_supernet_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search_routes.main([str(tmp_path / "missing.pth")]) == 2
    assert "missing.pth" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--base", "localvim_nano_digits"], ["--config", "a.py"], ["--out", "a.txt"], ["--count", "x"]]
)
def test_words_that_do_not_go_together_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        search_routes.main(["best.pth", *words])

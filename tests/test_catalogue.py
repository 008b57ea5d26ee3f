"""The catalogue: every model of every task, with the figures that are published, counted and registered."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import timm
import torch

import visionssm
from tools import write_results
from tools.count_models import count
from visionssm import backbones, catalogue
from visionssm.backbones.hrvmamba import PAPER as HRVMAMBA
from visionssm.benchmarks.timing import read_rows
from visionssm.catalogue import results
from visionssm.catalogue.listing import counts
from visionssm.catalogue.tables import CSV_COLUMNS, as_csv, as_json
from visionssm.cli import models as command
from visionssm.heads.yolo.variants import list_yolos

ENTRIES = catalogue.entries()
ROOT = Path(__file__).parents[1]


def test_every_model_of_every_registry_is_listed_once() -> None:
    names = [(info.task, info.name) for info in ENTRIES]
    assert len(names) == len(set(names))
    listed = {task: {info.architecture for info in ENTRIES if info.task == task} for task in catalogue.TASKS}
    assert listed["classification"] >= set(backbones.list_models())
    assert listed["detection"] == set(list_yolos())
    assert listed["pose"] == set(visionssm.list_poses())
    assert listed["medical"] == set(visionssm.list_segmenters())
    assert listed["restoration"] == set(visionssm.list_restorers())
    assert listed["pointcloud"] == set(visionssm.list_detectors())
    assert listed["video_classification"] == set(visionssm.list_video_classifiers())
    assert set(visionssm.list_models(task="video_classification", pretrained=True)) == set(
        visionssm.list_video_classifiers(pretrained=True)
    )


def test_names_make_models() -> None:
    for info in ENTRIES:
        if info.task == "classification":
            assert timm.is_model(info.architecture)
            assert info.name in timm.list_models(info.architecture, include_tags=True)


def test_counts_are_kept_of_every_model_and_of_no_other() -> None:
    known = set(counts())
    listed = {info.counted_as for info in ENTRIES}
    assert listed <= known, "run tools/count_models.py"
    absent = {name for name in known - listed if "/efficientvim_" not in name}  # an older timm has none
    assert absent == set(), "run tools/count_models.py"


@pytest.mark.parametrize(
    "name",
    [
        *("vmamba_nano_test", "hrvmamba_tiny", "plstm_vis_t", "vmunet_nano", "lion_retnet_nano", "hrvmamba_nano_pose"),
        *("videomamba_nano", "videomamba_tiny.ssv2_f16"),
    ],
)
def test_kept_counts_are_what_counting_gives(name: str) -> None:
    info = visionssm.model_info(name)
    assert list(count(name, info.task)) == counts()[f"{info.task}/{name}"] == [info.parameters, info.multiply_adds]


@pytest.mark.slow
@pytest.mark.parametrize("task", catalogue.TASKS)
def test_all_kept_counts_are_what_counting_gives(task: str) -> None:
    for known in {info.counted_as for info in ENTRIES if info.task == task}:
        assert list(count(known.partition("/")[2], task)) == counts()[known], "run tools/count_models.py"


def test_info_of_a_checkpoint_is_that_of_its_registration() -> None:
    first, second = visionssm.model_info("vssd_tiny"), visionssm.model_info("vssd_tiny.authors_mesa_in1k")
    assert first.name == "vssd_tiny.authors_in1k"
    assert (first.scores["top1"], second.scores["top1"]) == (83.6, 84.1)
    assert first.weights != second.weights
    cfg = timm.get_pretrained_cfg("mambavision_tiny")
    info = visionssm.model_info("mambavision_tiny")
    assert (info.crop_pct, info.interpolation, info.mean) == (cfg.crop_pct, cfg.interpolation, tuple(cfg.mean))
    with torch.device("meta"):
        model = timm.create_model("mambavision_tiny")
    assert info.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_name_of_a_network_and_of_its_backbone_means_either() -> None:
    whole, backbone = (visionssm.model_info("mambayolo_t", task=task) for task in ("detection", "classification"))
    assert (whole.task, backbone.task) == ("detection", "classification")
    assert whole.parameters is not None
    assert abs(whole.parameters / 1e6 - 6.13) < 0.02
    assert whole.scores["COCO box AP"] == 44.5


def test_a_video_checkpoint_has_its_frames_its_data_and_its_own_head() -> None:
    first, other = visionssm.model_info("videomamba_tiny"), visionssm.model_info("videomamba_tiny.ssv2_f16_288")
    assert (first.name, first.scores) == ("videomamba_tiny.k400_f8", {"Kinetics-400 top1": 76.9})
    assert (other.input_size, other.scores) == ((3, 16, 288, 288), {"Something-Something V2 top1": 66.2})
    assert first.parameters is not None
    assert other.parameters is not None
    features, positions = 192, (16 - 8) + (18**2 - 14**2)
    assert first.parameters - other.parameters == (400 - 174) * (features + 1) - positions * features


def test_published_figures_are_those_of_the_pages() -> None:
    rows = (ROOT / "docs" / "pointcloud.md").read_text(encoding="utf-8")
    for info in ENTRIES:
        if info.task == "pointcloud" and info.scores:
            told = " / ".join(f"{score:.1f}" for score in info.scores.values())
            assert f"{told} " in rows or f"{told})" in rows, info.name
    pose = visionssm.model_info("hrvmamba_tiny_pose_256x192")
    assert (pose.published_parameters, pose.published_gflops, pose.paper) == ("2M", "1.1", HRVMAMBA["paper_name"])


def test_what_has_weights_says_how_they_come() -> None:
    for info in ENTRIES:
        assert (info.weights is None) == (info.download is None), info
        assert info.download in (None, "automatic", "by hand")
        if info.weights is not None:
            assert info.weights.startswith("https://"), info


def test_lists_are_by_task_pattern_and_weights() -> None:
    assert visionssm.list_models() == backbones.list_models()
    assert visionssm.list_models("vmunet_*", task="medical") == visionssm.list_segmenters("vmunet_*")
    everything = visionssm.list_models(task=None)
    assert {"vmamba_tiny_s1l8", "vmunet_isic", "lion_mamba_kitti", "mambaout_tiny"} <= set(everything)
    assert "vmamba_nano_test.authors_in1k" not in visionssm.list_models(pretrained=True)
    assert all("." in name for name in visionssm.list_models(pretrained=True))
    with pytest.raises(ValueError, match="closest: 'medical'"):
        visionssm.list_models(task="medicla")


def test_a_mistyped_model_is_told_with_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="closest: 'vmamba_tiny_s1l8'"):
        visionssm.model_info("vmamba_tiny_s118")
    assert command.main(["vmamba_tiny_s118"]) == 2
    assert "closest: 'vmamba_tiny_s1l8'" in capsys.readouterr().err
    assert command.main(["no_such_*"]) == 2


def test_table_csv_and_json_hold_the_same_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["vssd_*", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert command.main(["vssd_*", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert command.main(["vssd_*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [info.name for info in ENTRIES if info.name.startswith("vssd_")]
    assert [row["model"] for row in rows] == [entry["name"] for entry in read] == names
    assert [line.split()[0] for line in lines[2:]] == names
    base = next(row for row in rows if row["model"] == "vssd_base.authors_in1k")
    assert (base["top1"], base["img_size"], base["param_count"]) == ("84.7", "224", "88.82")
    assert tuple(base) == CSV_COLUMNS


def test_all_of_it_can_be_written() -> None:
    assert as_csv(ENTRIES).count("\n") == len(ENTRIES) + 1
    assert len(json.loads(as_json(ENTRIES))) == len(ENTRIES)


def test_file_of_results_is_what_the_catalogue_and_the_measurements_say() -> None:
    kept = list(csv.DictReader(write_results.PATH.read_text(encoding="utf-8").splitlines()))
    computed = write_results.table()
    known = {row["model"] for row in computed}
    assert [row for row in kept if row["model"] in known] == computed, "run tools/write_results.py"
    assert {row["model"].partition("_")[0] for row in kept} >= {"vmamba", "mambaout", "mambavision"}
    others = {row["model"] for row in kept} - known
    assert all(name.startswith("efficientvim_") for name in others), others  # an older timm has none


def test_results_have_timms_columns_and_the_measured_speed() -> None:
    row = next(row for row in write_results.table() if row["model"] == "vmamba_tiny_s1l8.authors_in1k")
    assert (row["top1"], row["top1_err"], row["param_count"], row["img_size"]) == ("82.6", "17.4", "30.25", "224")
    (measured,) = [x for x in read_rows(write_results.SPEEDS[0], of_this_machine=False) if x["model"] in row["model"]]
    assert float(row["infer_step_time"]) == pytest.approx(measured["latency ms"], abs=0.05)
    assert float(row["infer_step_time_ratio"]) == pytest.approx(measured["latency / reference"], abs=5e-4)


def test_figure_of_accuracy_has_a_named_point_for_each_model_at_its_own_size() -> None:
    found = {name: (x, y) for family in results.points(write_results.table()).values() for x, y, name in family}
    assert found["vssd_base"][1] == 84.7  # of the first checkpoint, not of the other with 85.4
    assert "mambavision_large3_512_21k" not in found  # measured at 224 pixels, published at 512
    assert len(found) > 40

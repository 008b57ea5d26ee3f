"""The figures that configurations name are those of the tables in README and docs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.configs import shipped_config, shipped_configs
from tests.docs.pages import ROOT
from visionssm.benchmarks.published import Published, figures

DENSE = (ROOT / "docs" / "dense_prediction.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def _head(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _model(path: Path) -> str:
    """The registered model that a configuration names."""
    found = re.search(r'name="(\w+)"', path.read_text(encoding="utf-8"))
    assert found, path
    return found[1]


def _row(page: str, first: str) -> list[str]:
    """Cells of the row of a table that begins with `first`."""
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{first}`")]
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("path", shipped_configs("*_imagenet.py"), ids=lambda path: path.stem)
def test_accuracy_of_an_imagenet_config_is_the_published_one(path: Path) -> None:
    told = re.search(r"([\d.]+) % published top-1", _head(path))
    figure = figures().get(_model(path), Published("", None, None))  # nothing is published of supernets
    published = figure.tagged["authors_mesa_in1k"] if "_mesa_" in path.name else figure.top1
    assert (told[1] if told else None) == published


@pytest.mark.parametrize("path", shipped_configs("*_imagenet.py"), ids=lambda path: path.stem)
def test_operations_of_an_imagenet_config_are_the_published_ones(path: Path) -> None:
    told = re.search(r"([\d.]+) GFLOPs", _head(path))
    if told:
        assert float(told[1]) == pytest.approx(float(figures()[_model(path)].gflops or 0), abs=0.05)


@pytest.mark.parametrize("path", shipped_configs("mask_rcnn_*_coco.py"), ids=lambda path: path.stem)
def test_precision_of_a_detector_is_that_of_the_table(path: Path) -> None:
    found = re.fullmatch(r"mask_rcnn_(\w+)_fpn_([13])x_coco", path.stem)
    assert found
    cell = _row(DENSE[DENSE.index("| `configs/detection") : DENSE.index("| `configs/segmentation")], found[1])
    told = re.findall(r"(?:box|mask) AP (?:\(second-hand\) )?([\d.]+\d)", _head(path))
    in_table = re.findall(r"\d\d\.\d", cell[3 if found[2] == "1" else 4])
    assert told == in_table


@pytest.mark.parametrize("path", shipped_configs("cascade_mask_rcnn_*_coco.py"), ids=lambda path: path.stem)
def test_precision_of_a_cascade_is_that_of_the_table(path: Path) -> None:
    name = path.stem.removeprefix("cascade_mask_rcnn_").removesuffix("_fpn_3x_coco")
    cell = _row(DENSE[DENSE.index("/cascade_mask_rcnn") : DENSE.index("| `configs/segmentation")], name)
    assert re.findall(r"(?:box|mask) AP ([\d.]+\d)", _head(path)) == re.findall(r"\d\d\.\d", cell[3])


@pytest.mark.parametrize("path", shipped_configs("upernet_*_ade20k_*.py"), ids=lambda path: path.stem)
def test_mean_iou_of_a_segmentor_is_that_of_the_table(path: Path) -> None:
    cell = _row(DENSE[DENSE.index("| `configs/segmentation") :], path.stem.split("_", 1)[1].split("_160k")[0])
    told = re.findall(r"mIoU (?:\(second-hand\) )?([\d.]+\d)", _head(path))
    assert told == re.findall(r"\d\d\.\d", cell[3])


@pytest.mark.parametrize("name", ["plstm_arrow_pointing", "vit_arrow_pointing"])
def test_measured_accuracy_of_a_config_is_that_of_the_table(name: str) -> None:
    measured = re.findall(r"([\d.]+) %", " ".join(_row(BENCHMARKS, f"classification/plstm/{name}.py")))
    assert len(measured) == 2
    assert set(measured) <= set(re.findall(r"\d+\.\d", _head(shipped_config(name))))


def test_range_told_of_rendered_shapes_is_that_of_the_table() -> None:
    box, iou = (re.findall(rf"\| .*?{metric} (0\.\d+)", BENCHMARKS) for metric in ("box AP50", "mIoU"))
    assert len(box) == len(iou) == 2
    text = re.sub(r"\s+", " ", DENSE)
    for metric, values in (("box AP50", box), ("mIoU", iou)):
        low, high = sorted(f"{float(x):.2f}" for x in values)
        assert f"{metric} {low} to {high}" in text
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    torchvisions = [f"{float(values[i]):.2f}" for i, values in ((0, box), (0, iou))]
    assert f"box AP50 {torchvisions[0]} (Mask R-CNN), mIoU {torchvisions[1]} (DeepLab)" in readme

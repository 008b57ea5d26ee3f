"""README and docs: links lead somewhere, figures are those of files and registry, nothing contradicts itself."""

from __future__ import annotations

import importlib.util
import json
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest
import timm

import visionssm
from tests.docs.pages import PAGES, ROOT, anchors, links, without_blocks
from visionssm.benchmarks.models import shown
from visionssm.benchmarks.published import FAMILIES
from visionssm.benchmarks.timing import table
from visionssm.catalogue.zoo import checkpoints, rows
from visionssm.checkpoints import OfficialCfg

DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EVERYTHING = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link in links(page):
        if link.startswith("http"):
            continue
        path, _, part = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not part or part in anchors(target), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_relative_to(DOCS)], ids=lambda page: page.name)
def test_pages_of_the_site_link_to_nothing_outside_of_it(page: Path) -> None:
    for link in links(page):
        if not link.startswith(("http", "#")):
            assert (page.parent / link.partition("#")[0]).resolve().is_relative_to(DOCS), link


@pytest.mark.parametrize(
    "name",
    [
        "bounds",
        "convolution",
        "deformable",
        "headlines",
        "hybrids",
        "kernels",
        "medical",
        "medical.patches",
        "models",
        "networks",
        "pointcloud",
        "pointcloud.parts",
        "pose",
        "restoration",
        "restoration_frame",
    ],
)
def test_table_of_a_benchmark_is_that_of_its_file(name: str) -> None:
    measured = json.loads((DOCS / "benchmarks" / f"{name}.json").read_text())["rows"]
    lines = table(shown(measured) if name == "models" else measured).splitlines()
    assert len(lines) > 2
    assert [line for line in lines if line not in EVERYTHING] == []


def test_second_core_is_told_as_it_was_measured() -> None:
    small, large = json.loads((DOCS / "benchmarks" / "cores.json").read_text())["rows"]
    text = re.sub(r"\s+", " ", (DOCS / "benchmarks.md").read_text(encoding="utf-8"))
    told = re.search(r"the scan of a single 56 × 56 map to 1/([\d.]+), of a 256 × 256 map to 1/([\d.]+)", text)
    assert told
    for row, figure in zip((small, large), told.groups(), strict=True):
        assert f"{row['one thread / ours']:.3g}" == figure


def test_extremes_of_the_readme_are_those_of_the_table() -> None:
    ratios = [row["sequential / ours"] for row in json.loads((DOCS / "benchmarks/kernels.json").read_text())["rows"]]
    (network, *_) = json.loads((DOCS / "benchmarks/networks.json").read_text())["rows"]
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert f"the scan is {min(ratios):.1f} to {max(ratios):.0f} times as fast as the published fall-back" in readme
    assert network["network"].startswith("vmamba_tiny")
    assert f"takes {network['ours / identity scan']:.2f} times as long as without the scan" in readme


def test_one_training_has_one_duration_everywhere() -> None:
    assert set(re.findall(r"(?:embedded default|\(seed 0\)) (?:takes|took) (\d+ s)", EVERYTHING)) == {"52 s"}
    comments = re.findall(r"train\.py configs/vmamba_nano_digits\.py +# (.+)", EVERYTHING)
    assert comments
    assert [comment for comment in comments if "about a minute on two CPU cores" not in comment] == []
    benchmarks = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    seconds = re.findall(r"(?m)^\| `\w+/shapes_\w+\.py`.*?\| (\d+) s \|", benchmarks)
    assert {round(int(x) / 60) for x in seconds} == {4, 5}
    told = re.findall(r"(\w+ \w+ \w+) minutes on two", EVERYTHING)
    assert set(told) == {"four to five"}


def test_readme_points_to_every_guide() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in (
        "install",
        "training",
        "dense_prediction",
        "export",
        "visualize",
        "models",
        "pointcloud",
        "benchmarks",
        "gpu",
        "index",
    ):
        assert f"(docs/{name}.md)" in readme, name


def test_families_are_as_many_as_the_pages_say() -> None:
    others = {13: "thirteen", 14: "fourteen", 15: "fifteen", 16: "sixteen"}[len(FAMILIES) - 2]
    for page in ("README.md", "docs/index.md"):
        text = re.sub(r"\s+", " ", (ROOT / page).read_text(encoding="utf-8"))
        assert f"VMamba, Vim and {others} other families" in text, page


def test_first_page_of_the_site_has_the_commands_of_the_readme_and_a_time_for_each() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    hour = readme[readme.index("## The first hour") :].split("```")[1]
    told = [re.split(r"  +#|  +", line)[0] for line in hour.splitlines() if line.startswith("visionssm ")]
    timed = re.findall(r"(?m)^\| `(visionssm [^`]+)` \| [\d.]+ s", (DOCS / "index.md").read_text(encoding="utf-8"))
    assert told == timed


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    named = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert named == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def test_every_public_name_is_in_the_reference() -> None:
    listed = {line.split(".")[-1] for page in (DOCS / "api").glob("*.md") for line in _directives(page)}
    assert set(visionssm.__all__) - {"__version__"} <= listed


def _directives(page: Path) -> list[str]:
    return re.findall(r"(?m)^::: (\S+)$", page.read_text(encoding="utf-8"))


def test_install_names_every_extra_and_the_versions_that_the_package_asks_for() -> None:
    text = (DOCS / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", text)) == PROJECT["optional-dependencies"].keys()
    wanted = {"Python": PROJECT["requires-python"]}
    wanted |= dict(re.match(r"([\w-]+)(.*)", x).groups() for x in PROJECT["dependencies"])  # type: ignore[union-attr]
    for name, package in (("Python", "Python"), ("PyTorch", "torch"), ("timm", "timm")):
        assert f"| {name} | {wanted[package].removeprefix('>=')} or newer" in text
        assert name == "timm" or f"{name} {wanted[package].removeprefix('>=')} or newer" in EVERYTHING


def test_model_zoo_has_a_row_for_every_registered_checkpoint() -> None:
    listed = {info.name for info, _ in checkpoints()}
    for name in visionssm.list_models():
        for tagged in timm.list_models(name, include_tags=True):
            cfg = timm.get_pretrained_cfg(tagged)
            published = bool(cfg.url or cfg.hf_hub_id or (isinstance(cfg, OfficialCfg) and cfg.manual_url))
            assert (tagged in listed) == published, tagged
    assert {"mambaout_tiny.in1k", "vssd_base.authors_mesa_in1k", "groupmamba_base.authors_in1k"} <= listed


def test_rows_of_the_model_zoo_have_accuracy_size_input_licence_and_link() -> None:
    table = list(rows())
    assert len(table) == len({row.split("`")[1] for row in table}) > 40
    for row in table:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        unknown = ".e450_in1k" in cells[0]  # EfficientViM's other checkpoints
        assert re.fullmatch("–" if unknown else r"8\d\.\d|7\d\.\d", cells[1]), row
        assert re.fullmatch(r"[\d.]+M", cells[2]), row
        assert re.fullmatch(r"\d+×\d+", cells[3]), row
        assert cells[4], row
        assert re.search(r"\[.+\]\(https://\S+\)", cells[5]), row
        assert cells[6], row
        assert re.fullmatch(r"`[0-9a-f]{16}…`|not recorded", cells[7]), row
    assert any(row.startswith("| `vssd_base.authors_mesa_in1k` | 85.4 |") for row in table)


def test_continuous_integration_finds_its_lines_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    patterns = re.findall(r"grep -m1 -E '(.+)' README\.md", script)
    assert len(patterns) == 2
    for pattern in patterns:
        (line,) = re.findall(f"(?m){pattern}", readme)
        assert "pip install -q -e" in line


def test_version_is_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^version: (.+)$", citation) == [PROJECT["version"]] == [visionssm.__version__]
    assert re.findall(r'(?m)^  - name: "(.+)"$', citation) == [author["name"] for author in PROJECT["authors"]]
    assert f"license: {PROJECT['license']}" in citation


@pytest.mark.parametrize("page", sorted((DOCS / "api").glob("*.md")), ids=lambda page: page.name)
def test_objects_of_the_reference_exist_and_are_documented(page: Path) -> None:
    pytest.importorskip("mmengine")
    for path in _directives(page):
        target = pkgutil.resolve_name(path)
        assert (target.__doc__ or "").strip(), path


METADATA_KEYS = {"visionssm.sha256"}  # look like names of the package


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_places_and_names_in_the_text_exist(page: Path) -> None:
    for span in re.findall(r"`([^`\n]+)`", without_blocks(page)):
        for place in re.findall(r"(?<![\w/.-])(?:visionssm|tests|tools|configs|docs)/[\w./*{},<>-]*[\w*]", span):
            if not re.search(r"[<{]|FAMILY", place):  # stands for several
                assert list(ROOT.glob(place)), place
        for name in re.findall(r"(?<![\w/.])visionssm(?:\.\w+)+", span):
            needs_mmcv = name.startswith("visionssm.integrations.openmmlab")
            if name in METADATA_KEYS or (needs_mmcv and importlib.util.find_spec("mmcv") is None):
                continue
            pkgutil.resolve_name(name)

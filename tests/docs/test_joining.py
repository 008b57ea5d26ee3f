"""What those who join find: workflow, Dockerfiles, citations; it names what exists."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.docs.pages import ROOT
from visionssm.catalogue import entries
from visionssm.catalogue.zoo import citations

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_workflow_runs_scripts_that_exist_on_the_pythons_of_the_package() -> None:
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    scripts = [command for command in commands if re.match(r"\.ci/|tools/", command)]
    assert ".ci/run" in scripts
    assert [script for script in scripts if not (ROOT / script).stat().st_mode & 0o111] == []
    classifiers = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text}
    assert set(jobs["tests"]["strategy"]["matrix"]["python"]) == classifiers
    (oldest,) = [row["torch"] for row in jobs["tests"]["strategy"]["matrix"]["include"]]
    wanted = dict(re.match(r"([\w-]+)>=(.*)", x).groups() for x in PROJECT["dependencies"])  # type: ignore[union-attr]
    assert oldest == f"torch=={wanted['torch']}.* torchvision=={wanted['torchvision']}.*"


def test_the_packages_check_runs_every_command_of_the_readmes_first_hour() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"(?m)^visionssm (\w+)", readme[readme.index("## The first hour") :].split("```")[1])
    script = (ROOT / "tools" / "check_package.sh").read_text(encoding="utf-8")
    assert len(named) == 9
    assert {name for name in named if not re.search(rf"(?m)^(visionssm|answers) {name} ", script)} == set()


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_dockerfile_installs_extras_that_exist_and_says_that_it_is_untested(name: str) -> None:
    text = (ROOT / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8")
    (extras,) = re.findall(r"/src\[([\w,]+)\]", text)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    assert "Untested" in text.splitlines()[0]


def test_every_paper_of_the_catalogue_can_be_cited_once() -> None:
    text = "\n\n".join(citations())
    papers = {info.paper for info in entries() if info.paper}
    for paper in papers:
        number = paper.removeprefix("https://arxiv.org/abs/")
        assert text.count(f"eprint = {{{number}}}" if number != paper else paper) == 1, paper
    assert "title = {VMamba: Visual State Space Model}" in text
    keys = re.findall(r"@misc\{(\w+),", text)
    assert len(keys) == len(set(keys)) > 10

"""The Dockerfiles, as far as they can be tested without Docker: what they name exists; usual faults are not there."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from visionssm.cli import COMMANDS
from visionssm.engine.shipped import shipped_configs

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docker").glob("*Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

pytestmark = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions in capitals and what follows each, of which lines that end in a backslash are one."""
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def all_of(path: Path, name: str) -> list[str]:
    return [rest for word, rest in instructions(path) if word == name]


def ignored(name: str) -> bool:
    """Whether .dockerignore keeps a file of the repository out of the image's context."""
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    parts = Path(name).parts
    return any(fnmatch.fnmatch("/".join(parts[:n]), rule) for rule in rules for n in range(1, len(parts) + 1))


def test_every_line_is_an_instruction(path: Path) -> None:
    known = [
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ]
    assert {word for word, _ in instructions(path)} <= set(known)  # ADD fetches and unpacks: COPY says what it does
    assert instructions(path)[0][0] in ("ARG", "FROM")


def test_base_image_has_a_version_that_the_package_takes(path: Path) -> None:
    (image,) = all_of(path, "FROM")
    found = re.fullmatch(r"python:(\d+)\.(\d+)(\.\d+)?-slim(-[a-z]+)?(@sha256:[0-9a-f]{64})?", image)
    assert found is not None, image
    assert PROJECT["requires-python"] == ">=3.11"
    assert (int(found[1]), int(found[2])) >= (3, 11)


def test_what_is_copied_exists_and_holds_all_that_the_package_is_built_from(path: Path) -> None:
    for rest in all_of(path, "COPY"):
        *sources, target = [word for word in shlex.split(rest) if not word.startswith("--")]
        assert target.startswith("/")
        for source in sources:
            assert (ROOT / source).exists(), source
    needed = ["pyproject.toml", "setup.py", "MANIFEST.in", "visionssm_command.py", "visionssm/__init__.py", "configs"]
    needed += [PROJECT["readme"], *PROJECT.get("license-files", ["LICENSE"])]
    for name in needed:
        assert (ROOT / name).exists(), name
        assert not ignored(name), name
    assert ignored(".git/HEAD")
    assert ignored(".venv/bin/python")


def test_layers_keep_no_lists_of_packages_and_no_downloads(path: Path) -> None:
    for rest in all_of(path, "RUN"):
        assert "sudo" not in rest
        assert not re.search(r"(curl|wget)\b.*\|", rest)
        assert not re.search(r"http://", rest)
        if "apt-get install" in rest:
            assert rest.startswith("apt-get update && ")
            assert "apt-get install -y --no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest
        for command in rest.split("&&"):
            words = shlex.split(command)
            if words[:1] == ["pip"]:
                assert words[1:3] == ["install", "--no-cache-dir"]


def test_who_runs_it_is_not_root_and_can_write_caches(path: Path) -> None:
    words = [word for word, _ in instructions(path)]
    user = all_of(path, "USER")[-1]
    assert user.partition(":")[0].isdigit(), "a number, which Kubernetes can tell from root"
    assert int(user.partition(":")[0]) > 0
    assert "RUN" not in words[words.index("USER") :]
    environment = dict(x.split("=", 1) for rest in all_of(path, "ENV") for x in shlex.split(rest))
    assert environment["HOME"] == "/tmp"
    assert all(x.startswith("/tmp") for name, x in environment.items() if name.endswith("_DIR"))
    assert "NUMBA_CACHE_DIR" in environment
    assert all(rest.startswith("/") for rest in all_of(path, "WORKDIR"))


def test_nothing_secret_is_written_into_it(path: Path) -> None:
    for word in ("ENV", "ARG", "LABEL"):
        for rest in all_of(path, word):
            assert not re.search(r"(?i)token|secret|password|passwd|api_?key|credential", rest)


def test_it_starts_the_command_and_the_examples_on_top_are_commands(path: Path) -> None:
    (entry,) = all_of(path, "ENTRYPOINT")
    (name,) = json.loads(entry)  # a list: a shell would not hand Ctrl-C on
    assert name in PROJECT["scripts"]
    module, _, function = PROJECT["scripts"][name].partition(":")
    assert f"def {function}(" in (ROOT / f"{module}.py").read_text(encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    (image,) = re.findall(r"docker build -f docker/\S+ -t (\S+) \.", text)
    assert f"docker build -f docker/{path.name} " in text
    runs = [line for line in text.splitlines() if "docker run" in line]
    assert runs
    for line in runs:
        words = shlex.split(line.lstrip("# ").replace('"$(id -u):$(id -g)"', "1:1"))
        command, argument, *_ = words[words.index(image) + 1 :]
        assert command in COMMANDS
        assert command != "train" or argument in shipped_configs()

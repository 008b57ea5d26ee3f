"""timm's own public test suite, from timm's source distribution, run on our models."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
import timm
import torch

import visionssm

# TorchScript is deprecated and cannot hold kernels written in Python. Loading pretrained weights needs the network;
# tests/checkpoints covers it with a local server.
# The constants of one pLSTM ablation leave weights idle that its authors' files have; no gradient reaches those.
NOT_APPLICABLE = "torchscript or pretrained or (plstm_vis_t_conststm and backward)"
# HRVMamba has eight levels, four resolutions twice. This one of timm's tests asks for all levels in one list, in which
# resolutions must only fall; each of the two pyramids is such a list, as tests/backbones/test_hrvmamba.py shows.
TWO_PYRAMIDS = "hrvmamba and test_model_forward_intermediates and not test_model_forward_intermediates_features"
GENERATIONS = visionssm.list_models("*_nano_test")


def _module(model: str) -> str:
    """The file of a model's family, by which timm knows it."""
    return timm.model_entrypoint(model).__module__.rpartition(".")[2]


def _families() -> list[str]:
    return sorted({_module(model) for model in GENERATIONS})


def _of_tokens(model: str) -> bool:
    """Whether a model has tokens in place of maps, which timm's tests of pyramids must know."""
    with torch.no_grad():
        return timm.create_model(model).forward_features(torch.zeros(1, 3, 64, 64)).ndim < 4


def _smallest_published(test_variant: str) -> list[str]:
    """The published variants of a test variant's generation that are hardly larger than its smallest one."""
    stems = [x.removesuffix("_nano_test") for x in GENERATIONS]
    sizes: dict[str, int] = {}
    for name in visionssm.list_models():
        generation = max((stem for stem in stems if name.startswith(f"{stem}_")), key=len)
        if name not in GENERATIONS and f"{generation}_nano_test" == test_variant:
            with torch.device("meta"):
                sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
    return [name for name, size in sizes.items() if size < 1.4 * min(sizes.values())]


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's test_models.py of the installed version, with our plain models and modules added to its lists."""
    folder = tmp_path_factory.mktemp("timm")
    requirement = f"timm=={version('timm')}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--quiet"]
    fetched = subprocess.run([*command, requirement, "--dest", folder], capture_output=True, text=True, check=False)
    if fetched.returncode:
        message = f"cannot fetch {requirement}'s source distribution: {fetched.stderr[-300:]}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    (archive,) = folder.glob("timm-*.tar.gz")
    with tarfile.open(archive) as tar:
        (member,) = [m for m in tar.getmembers() if m.name.endswith("/tests/test_models.py")]
        file = tar.extractfile(member)
        assert file is not None
        source = file.read().decode()
    tokens = [f"{model.removesuffix('_nano_test')}_*" for model in GENERATIONS if _of_tokens(model)]
    for name, additions in (("NON_STD_FILTERS", tokens), ("FEAT_INTER_FILTERS", _families())):
        source, count = re.subn(rf"^{name} = \[$", f"{name} = [{str(additions)[1:-1]},", source, flags=re.M)
        assert count == 1, name
    path = folder / "test_models.py"
    path.write_text(source)
    return path


def _passes(suite: Path, models: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", suite, "-q", "-p", "no:cacheprovider", "--rootdir", suite.parent]
    result = subprocess.run(
        [*command, "-k", f"({' or '.join(models)}) and not ({NOT_APPLICABLE}) and not ({TWO_PYRAMIDS})"],
        env={**os.environ, "TORCH_BACKEND": "visionssm"},
        cwd=suite.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None
    assert int(passed[1]) >= 6 * len(models), result.stdout[-1000:]


@pytest.mark.slow  # `.ci/run` runs it every time
def test_timms_suite_passes_for_the_test_variants(suite: Path) -> None:
    _passes(suite, GENERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("test_variant", GENERATIONS)
def test_timms_suite_passes_for_the_smallest_published_variants(suite: Path, test_variant: str) -> None:
    _passes(suite, _smallest_published(test_variant))

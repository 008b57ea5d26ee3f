"""Which test takes which reference case."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from tests import reference_cases
from tests.backbones.test_reference_cases import model_name
from tests.reference.fill import stream, uniform
from tests.reference_cases import FOLDER, KINDS, RECORDED, Case, all_cases, find_cases

TESTS = Path(__file__).parent


def test_every_kind_of_case_is_taken_by_a_test() -> None:
    text = "".join(path.read_text() for path in TESTS.rglob("test_*.py") if path != Path(__file__))
    taken = re.findall(r'(?:every_case|find_cases)\(\s*"([^"]+)"', text)
    assert sorted(set(taken)) == sorted(KINDS)


def test_every_file_of_the_folder_is_a_case_and_every_classifier_has_a_model() -> None:
    kinks = set(FOLDER.glob("*_kinks.json"))
    assert {case.path for case in all_cases()} == set(FOLDER.rglob("*.json")) - kinks
    for case in find_cases("classifier"):
        assert case.data["name"].startswith(model_name(case))


@pytest.mark.parametrize("shape", [(), (7,), (3, 5)])
def test_a_tensor_is_made_of_the_raw_bits_of_its_name_and_seed(shape: tuple[int, ...]) -> None:
    bits = stream(3, "head.weight").random_raw(math.prod(shape))
    assert np.array_equal(uniform(3, "head.weight", shape), ((bits >> 11) * 2.0**-53).reshape(shape))


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_cases_are_read_from_the_folder_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONSSM_REFERENCE_CASES", str(tmp_path))
    assert reference_cases._folder() == tmp_path.resolve()
    monkeypatch.setattr(reference_cases, "FOLDER", tmp_path)
    assert all(not find_cases(kind) for kind in KINDS)
    paths = [_write(tmp_path, f"vim/{name}", "{}") for name in ("vim_tiny", "vim_tiny_grad")]
    dense = _write(tmp_path, "spatialmamba/spatialmamba_tiny_backbone", "{}")
    assert [case.path for case in find_cases("Vim")] == paths
    assert [case.path for case in find_cases("Spatial-Mamba for dense tasks")] == [dense]
    assert not find_cases("classifier")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONSSM_REFERENCE_CASES", str(tmp_path / "absent"))
    with pytest.raises(NotADirectoryError, match="absent"):
        reference_cases._folder()


def test_a_case_that_no_test_takes_is_an_error(tmp_path: Path) -> None:
    case = Case(_write(tmp_path, "unknown/unknown_tiny_grad", '{"name": "unknown_tiny_grad"}'))
    assert case.kind == "classifier"
    with pytest.raises(ValueError, match="unknown_tiny_grad, which is no model"):
        model_name(case)


def test_what_is_known_of_a_recorded_case_holds_for_a_copy_and_not_for_another(tmp_path: Path) -> None:
    recorded = RECORDED / "hrvmamba" / "hrvmamba_small_grad.json"
    known = Case(recorded).kinks
    assert known
    copy = _write(tmp_path, "hrvmamba/hrvmamba_small_grad", recorded.read_text())
    assert Case(copy).kinks == known
    copy.write_text(recorded.read_text() + " ")
    assert not Case(copy).kinks

"""The README's model table is what the counter finds and the authors publish, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import visionssm
from visionssm.benchmarks import yolo_sizes
from visionssm.benchmarks.published import FAMILIES, HEADER, SECOND_HAND, Family, figures, rows

README = (Path(__file__).parents[2] / "README.md").read_text().splitlines()
# Not in the table: variants for tests, ablations and what was searched in, the second forms of a model with the same
# published figures, and backbones that are published as part of a detector only.
UNLISTED = re.compile("_nano_test$|_plain$|_scale$|^plstm_ape$|^plstm_vis_t_|^mambayolo_|^local.*search$")


def test_every_published_variant_has_a_row() -> None:
    ours = {name for name in visionssm.list_models() if not UNLISTED.search(name)}
    assert ours == {name for name in figures() if not name.startswith(("mambaout", "efficientvim"))}


def test_table_has_its_header_and_the_note_on_second_hand_figures() -> None:
    start = README.index(HEADER[0])
    assert README[start + 1] == HEADER[1]
    assert any(line.startswith(SECOND_HAND) for line in README[start:])


def test_table_of_detectors_is_the_counted_one() -> None:
    start = README.index(yolo_sizes.HEADER[0])
    assert README[start : start + 5] == [*yolo_sizes.HEADER, *yolo_sizes.rows()]
    assert README[start + 2].startswith("| `mambayolo_t` | 6.13M | 6.13M | 5.8M | 14.3, 13.2 | 44.5, 61.2, 48.2 |")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: next(iter(family.variants)).split("_")[0])
@pytest.mark.parametrize(
    "part", [pytest.param(slice(1), id="first"), pytest.param(slice(None), id="all", marks=pytest.mark.slow)]
)
def test_rows_of_the_readme_are_the_counted_ones(family: Family, part: slice) -> None:
    chosen = Family(family.source, dict(list(family.variants.items())[part]))
    for row in rows([chosen]):
        assert row in README

"""The README's table of pose estimators is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from visionssm.benchmarks.estimators import HEADER, rows

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow  # parameters are tested beside the networks
def test_readme_shows_the_counted_rows_and_ours_are_the_authors_to_their_digits() -> None:
    table = list(rows())
    assert "\n".join((*HEADER, *table)) in README
    for row in table:
        _, name, parameters, published, gflops, theirs, ap, _ = (cell.strip() for cell in row.split("|"))
        assert abs(float(parameters[:-1]) - float(published[:-1])) < 0.5, name
        assert abs(float(gflops) / float(theirs) - 1) < 0.04, name
        assert 69 < float(ap) < 78

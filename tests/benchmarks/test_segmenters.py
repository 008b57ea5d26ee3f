"""The table of the networks for medical segmentation is counted, and the documentation shows it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from visionssm.benchmarks.segmenters import rows

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow  # that networks have the published parameters is tested beside them
def test_page_and_readme_show_the_counted_rows_and_ours_are_as_many_as_the_authors() -> None:
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.on_page_markdown((DOCS / "medical.md").read_text(encoding="utf-8"))
    table = list(rows())
    assert "| `vmunet_synapse` | 27,427,761 | 27,427,761 | Synapse DSC 81.08, Synapse HD95 19.21 |" in table
    assert "\n".join(table) in page
    assert "\n".join(table) in (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for row in table:
        _, name, ours, theirs, _, _ = row.split("|")
        assert theirs == (" – " if "umamba_bot" in name or "`umamba_enc" in name else ours), row

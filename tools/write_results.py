#!/usr/bin/env python3
"""Write what is made of the catalogue anew: visionssm/catalogue/models.json, which lists the models without PyTorch,
and with docs/benchmarks results/results-imagenet.csv and docs/images/accuracy.png.

After adding a model to the catalogue, or measuring one anew with `tools/benchmark.py models`.
"""

from __future__ import annotations

from pathlib import Path

from visionssm.catalogue import entries, index, results
from visionssm.files import complete_or_absent

ROOT = Path(__file__).parents[1]
SPEEDS = [ROOT / "docs" / "benchmarks" / f"{name}.json" for name in ("models", "models_large", "models_one_thread")]
PATH = ROOT / "results" / "results-imagenet.csv"
INDEX = ROOT / "visionssm" / "catalogue" / index.NAME
FIGURE = ROOT / "docs" / "images" / "accuracy.png"


def table() -> list[dict[str, str]]:
    """The rows of the file."""
    return results.rows(entries(), results.measured(*SPEEDS))


def main() -> None:
    """Write them."""
    with complete_or_absent(INDEX) as partial:
        partial.write_text(index.as_text(entries()), encoding="utf-8")
    rows = table()
    with complete_or_absent(PATH) as partial:
        partial.write_text(results.as_csv(rows), encoding="utf-8")
    results.draw(rows, FIGURE)
    print(f"wrote {len(rows)} rows to {PATH}, {INDEX} and {FIGURE}")


if __name__ == "__main__":
    main()

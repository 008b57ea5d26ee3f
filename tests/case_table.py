"""Prints how near every backbone comes to the authors' code, a row per family: python -m tests.case_table [FAMILY …]

The largest differences over the family's cases, relative to the largest recorded value of a tensor (gradient norms: to
themselves). Largest gradient differences are told beside those of the recording itself to float64, since both are
rounding; tests/reference_cases.py has the rule by which they are judged.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial

import torch
from rich.progress import track

from tests.backbones.test_reference_cases import load_case_model, recorded_maps
from tests.kinks import FollowKinks, RecordKinks
from tests.reference_cases import Case, find_cases, norms_of_backward, relative_gradient_error
from visionssm.benchmarks.timing import table


def gradient_differences(case: Case, model: torch.nn.Module) -> dict[str, list[float]]:
    """Of every parameter: ours to recorded, recorded to float64, and ours with float64's kinks to float64."""
    norms = partial(norms_of_backward, case, model, sys.modules[type(model).__module__].checkpoint_filter_fn)
    kinks = RecordKinks()
    exact = norms(torch.float64, kinks)
    single = norms(torch.float32, RecordKinks())
    pinned = norms(torch.float32, FollowKinks(kinks.decisions))
    return {
        "ours to recorded": [relative_gradient_error(*single[name]) for name in exact],
        "recorded to float64": [relative_gradient_error(recorded, truth) for truth, recorded in exact.values()],
        "ours to float64": [relative_gradient_error(pinned[name][0], truth) for name, (truth, _) in exact.items()],
    }


def main(families: list[str]) -> None:
    """Print the two tables."""
    rows: list[dict[str, object]] = []
    gradient_rows: list[dict[str, object]] = []
    classifiers = find_cases("classifier")
    for family in families or sorted({case.path.parent.name for case in classifiers}):
        cases = [case for case in classifiers if case.path.parent.name == family]
        outputs: list[float] = []
        stages: list[float] = []
        for case in track(cases, family):
            model = load_case_model(case)
            with torch.no_grad():
                output, maps = recorded_maps(model, case.image())
            outputs.append(case.relative_error("output", output))
            stages += [case.relative_error(f"stage{i}", x) for i, x in enumerate(maps)]
            if "grad_norms" in case.data:
                differences = gradient_differences(case, model)
                cells = [f"{statistics.median(x):.0e}, {max(x):.0e}" for x in differences.values()]
                gradient_rows.append(
                    {"gradients (median, largest)": case.path.stem} | dict(zip(differences, cells, strict=True))
                )
        rows.append(
            {"family": family, "cases": len(cases)}
            | {"outputs": f"{max(outputs):.0e}", "stage maps": f"{max(stages):.0e}" if stages else None}
        )
    print(table(rows))
    if gradient_rows:
        print(table(gradient_rows))


if __name__ == "__main__":
    main(sys.argv[1:])

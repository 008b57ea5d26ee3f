"""The exporter's optimizer without what takes it minutes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_TABLE = "_DEFAULT_REWRITE_RULES"


@contextlib.contextmanager
def linear_rules() -> Iterator[None]:
    """onnxscript's optimizer without its rules for several nodes that do not follow one another, for a while.

    Of every node it asks each such rule whether the pattern begins there, and the rule lists the whole graph before it
    looks at the node. (In onnxscript 0.7 there is one, which makes a split of two slices.) The time is that of the
    square of the number of nodes, and most of an export of networks whose routes are computed: MHS-VM's.
    """
    from onnxscript import rewriter

    rules: Any = getattr(rewriter, _TABLE, None)  # no public name; another version may have another
    if rules is None:
        yield
        return
    setattr(rewriter, _TABLE, tuple(rule for rule in rules if _is_linear(rule)))
    try:
        yield
    finally:
        setattr(rewriter, _TABLE, rules)


def _is_linear(rule: Any) -> bool:
    pattern = getattr(getattr(rule, "_matcher", None), "pattern", None)
    return bool(getattr(pattern, "has_single_output_node", True))

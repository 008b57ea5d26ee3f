"""The exporter's optimizer looks at every node once."""

from __future__ import annotations

import pytest

from visionssm.integrations.export.onnx_rules import linear_rules

pytest.importorskip("onnxscript", reason="needs the export extra")


def test_rules_that_look_through_the_graph_for_every_node_are_left_out_for_a_while() -> None:
    import onnx_ir as ir
    from onnxscript import rewriter

    def visited(nodes: int) -> int:
        """How many nodes of a chain the optimizer's rules take in hand."""
        x = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
        chain = [ir.node("Sin", [x])]
        for _ in range(nodes - 1):
            chain.append(ir.node("Sin", [chain[-1].outputs[0]]))
        count = 0

        class Counted(ir.Graph):
            def __iter__(self):  # type: ignore[no-untyped-def]
                nonlocal count
                for node in super().__iter__():
                    count += 1
                    yield node

        graph = Counted([x], [chain[-1].outputs[0]], nodes=chain, opset_imports={"": 18}, name="chain")
        rewriter.RewritePass(rewriter._DEFAULT_REWRITE_RULES)(ir.Model(graph, ir_version=10))
        return count

    before = rewriter._DEFAULT_REWRITE_RULES
    with linear_rules():
        assert len(rewriter._DEFAULT_REWRITE_RULES) > len(before) / 2
        assert visited(80) < 3 * visited(40)
    assert rewriter._DEFAULT_REWRITE_RULES is before

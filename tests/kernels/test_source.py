"""What the source of the kernels keeps to, because nothing else shows it until memory is damaged."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "visionssm" / "kernels"
FACTORIES = {
    *("arange", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "ones", "rand", "randn", "randint"),
    *("randperm", "scalar_tensor", "tensor", "zeros"),
}


def _is_factory(node: ast.AST) -> bool:
    of_torch = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch"
    return of_torch and node.attr in FACTORIES


def _left_to_defaults(source: str) -> Iterator[str]:
    """Uses of torch's factories that leave dtype or device to PyTorch's defaults, or hide what they are called with."""
    tree = ast.parse(source)
    functions = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_factory(node.func):
            functions.add(node.func)
            if not {"dtype", "device"} <= {keyword.arg for keyword in node.keywords}:
                yield f"line {node.lineno}: {ast.unparse(node)}"
    for node in ast.walk(tree):
        if _is_factory(node) and node not in functions:
            yield f"line {node.lineno}: {ast.unparse(node)} under another name"


@pytest.mark.parametrize("source", ["torch.empty(3)", "torch.ones(2, dtype=torch.int8)", "new = torch.zeros"])
def test_what_is_left_to_defaults_is_found(source: str) -> None:
    assert list(_left_to_defaults(source))


@pytest.mark.parametrize("path", sorted(KERNELS.rglob("*.py")), ids=lambda path: str(path.relative_to(KERNELS)))
def test_kernels_leave_no_dtype_and_no_device_to_defaults(path: Path) -> None:
    assert not list(_left_to_defaults(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", sorted(KERNELS.rglob("gpu_*.py")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_offset_is_a_product_with_the_32_bit_number_of_a_program(path: Path) -> None:
    """A grid has up to 2³¹ programs: the number of one times anything is beyond 32 bits."""
    products = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult)
        and any(isinstance(side, ast.Name) and side.id == "program" for side in (node.left, node.right))
    ]
    assert not products

"""What single changes of a file are there, and how is one made?"""

import ast
import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

PARTS = (
    "model",
    "data_pipeline/stream",
    "trainer/inference/decode.py",
    "trainer/inference/postprocess.py",
    "trainer/metrics",
)
"""What is changed: folders and files."""

OPERATORS = [
    f"core/{name}"
    for name in (
        *("ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add"),
        *("ReplaceBinaryOperator_Mul_Div", "ReplaceBinaryOperator_Div_Mul"),
        *("ReplaceBinaryOperator_FloorDiv_Mul", "ReplaceBinaryOperator_Mod_FloorDiv"),
        *("ReplaceBinaryOperator_Pow_Mul", "ReplaceBinaryOperator_BitAnd_BitOr"),
        *("ReplaceComparisonOperator_Lt_LtE", "ReplaceComparisonOperator_LtE_Lt"),
        *("ReplaceComparisonOperator_Gt_GtE", "ReplaceComparisonOperator_GtE_Gt"),
        *("ReplaceComparisonOperator_Lt_Gt", "ReplaceComparisonOperator_Gt_Lt"),
        *("ReplaceComparisonOperator_Eq_NotEq", "ReplaceComparisonOperator_NotEq_Eq"),
        *("ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is"),
        *("ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not"),
        *("ReplaceUnaryOperator_Delete_Invert", "AddNot", "NumberReplacer"),
        *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
        *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ZeroIterationForLoop"),
        *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    )
]
"""Changes that leave code which runs; one that any use of it would refuse says nothing of tests."""

Place = tuple[int, int]
"""Line, from 1, and column."""


@dataclass(frozen=True, order=True)
class Change:
    """The `occurrence`-th place of a file where an operator of Cosmic Ray can change something."""

    path: str
    lines: tuple[int, ...]
    operator: str
    occurrence: int


def all_changes(root: Path, below: str) -> Iterator[Change]:
    """All changes of the files below a path, but those of decorators and annotations of types."""
    top = root / below
    for path in [top] if top.is_file() else sorted(top.rglob("*.py")):
        source = path.read_text()
        nodes = list(ast_nodes(get_ast(source)))
        silent = list(_without_effect(source))
        for name in OPERATORS:
            operator = get_operator(name)()
            places = [place for node in nodes for place in operator.mutation_positions(node)]
            for occurrence, (start, end) in enumerate(places):
                if not any(first <= start < last for first, last in silent):
                    lines = tuple(range(start[0], end[0] + 1))
                    yield Change(str(path.relative_to(root)), lines, name, occurrence)


def _without_effect(source: str) -> Iterator[tuple[Place, Place]]:
    """Where decorators and annotations of types stand."""
    for node in ast.walk(ast.parse(source)):
        found: list[ast.expr | None] = [*getattr(node, "decorator_list", [])]
        if isinstance(node, ast.FunctionDef):
            found.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        for each in found:
            if each is not None and each.end_lineno and each.end_col_offset:
                yield (each.lineno, each.col_offset), (each.end_lineno, each.end_col_offset)


@contextmanager
def changed(root: Path, change: Change) -> Iterator[tuple[str, str]]:
    """The file of a change below `root` with that change; its text before and now."""
    path = root / change.path
    before = path.read_text()
    after = mutate_code(before, get_operator(change.operator)(), change.occurrence)
    if after is None:
        raise ValueError(f"{change}: there is no such place")
    path.write_text(after)
    try:
        yield before, after
    finally:
        path.write_text(before)


def told(before: str, after: str) -> str:
    """The lines that differ."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
    return "\n".join(f"    {line}" for line in list(lines)[3:])


def first_new(before: str, after: str) -> str:
    """The first line that differs, as it is now, without its indentation."""
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    return next((new.strip() for old, new in pairs if old != new), "")

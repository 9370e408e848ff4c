"""The cells of NAS-Bench-201 (Dong and Yang 2020) as strings; imports neither torch nor nni.

A cell has four nodes. Node 0 is the input; every later node is the sum of one operation on each node before it, and
node 3 is the output. The string of a cell has a group for each of the nodes 1, 2 and 3; a group has `|operation~j` for
each earlier node j, with the operation on node j:

    |nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dd_core.errors import UserError, unknown_name

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4
# (from, to) of each operation, in the order of the string
EDGES = tuple((source, node) for node in range(1, NODES) for source in range(node))

_EXAMPLE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|none~2|"
_CELL = re.compile(
    r"\+".join(r"\|" + "".join(rf"([^|~+]*)~{source}\|" for source in range(node)) for node in (1, 2, 3))
)


def operations(architecture: str) -> tuple[str, ...]:
    """The operation on each edge of `EDGES`; raises `UserError` if the string is not a cell's."""
    match = _CELL.fullmatch(architecture)
    if match is None:
        shown = architecture if len(architecture) <= 120 else f"{architecture[:117]}..."
        raise UserError(f"{shown!r} is no cell of NAS-Bench-201, such as {_EXAMPLE}")
    for operation in match.groups():
        if operation not in OPERATIONS:
            raise unknown_name("operation", operation, OPERATIONS)
    return match.groups()


def architecture(chosen: Sequence[str]) -> str:
    """The string of the cell with the operation `chosen` for each edge of `EDGES`; the inverse of `operations`.

    Raises `UserError` for an unknown operation, and if there are more or fewer operations than edges.
    """
    if len(chosen) != len(EDGES):
        raise UserError(f"a cell of NAS-Bench-201 has {len(EDGES)} operations, not {len(chosen)}")
    groups = [
        "".join(f"|{operation}~{source}" for operation, (source, end) in zip(chosen, EDGES, strict=True) if end == node)
        for node in range(1, NODES)
    ]
    text = "+".join(f"{group}|" for group in groups)
    operations(text)
    return text


def canonical(architecture: str) -> str:
    """The expression by which NAS-Bench-201 identifies equal cells: its 15,625 cells have 6,466 expressions.

    0 is the input, # is zero, `(a)@operation` an operation on a; `skip_connect` returns its operand, `none` and any
    operation on # give #, and operands of a sum are sorted (Dong and Yang 2020, section 2.1, "unique topology").
    Cells with the same expression are the same network, but for the shift that a batch norm learns where its input is
    zero. The converse does not hold: zeros stay in a sum, and nested sums keep their order, so that `0` and `#+0` are
    two expressions of the same network. Raises `UserError` if the string is not a cell's.
    """
    chosen = dict(zip(EDGES, operations(architecture), strict=True))
    nodes = ["0"]
    for node in range(1, NODES):
        operands = (_applied(chosen[source, node], nodes[source]) for source in range(node))
        nodes.append("+".join(sorted(operands)))
    return nodes[-1]


def _applied(operation: str, operand: str) -> str:
    if operation == "none" or operand == "#":
        return "#"
    return operand if operation == "skip_connect" else f"({operand})@{operation}"

r"""A table as LaTeX for a paper: a `tabular` with the rules of booktabs, between `\begin{table}` and its caption.

The document needs `\usepackage{booktabs}`, and UTF-8, which LaTeX reads by default. Notes are comments of the file.
"""

from __future__ import annotations

from collections.abc import Mapping

from dd_apps.report.tables import Table, printable, text

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def latex(table: Table) -> str:
    """The table as LaTeX: numbers to the right, whatever names contain shown as text."""
    columns = table.columns()
    numbers = [not any(isinstance(row.get(column), str) for row in table.rows) for column in columns]
    lines = [f"% {printable(note)}" for note in table.notes]
    lines += [r"\begin{table}", r"\centering", f"\\caption{{{escaped(table.title)}}}"]
    lines += [f"\\begin{{tabular}}{{{''.join('r' if number else 'l' for number in numbers)}}}", r"\toprule"]
    lines += [_row([escaped(heading) for heading in table.headings()]), r"\midrule"]
    lines += [_row([_cell(row.get(column), table, column) for column in columns]) for row in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def escaped(words: str) -> str:
    """`words` with LaTeX's special characters escaped, and unprintable characters spelt out."""
    return "".join(_SPECIAL.get(letter, letter) for letter in printable(words))


def _row(cells: list[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _cell(value: object, table: Table, column: str) -> str:
    """A cell; minus and plus-minus signs of numbers, deviations and intervals are set in LaTeX's math mode."""
    shown = escaped(text(value, table.units.get(column)))
    if not isinstance(value, Mapping | int | float):
        return shown
    return shown.replace("-", "$-$").replace("±", r"$\pm$")

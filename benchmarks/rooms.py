"""The structure of the code: rooms and arrows between them, circles, long files, late imports.

    python benchmarks/rooms.py            # or: make rooms

A room is a module or a package directly in `dd_core` or `dd_apps`; an arrow is an import from one to another, imports
for type checkers left out. A late import stands in a function, so that a module that only needs names loads no torch.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grimp

ROOT = Path(__file__).parents[1]
PACKAGES = {"dd_core": ROOT / "core" / "dd_core", "dd_apps": ROOT / "dd_apps"}
LONGEST, MOST_ROOMS, MOST_LATE_IMPORTS = 450, 26, 25  # lines of a file; rooms and late imports of the engine

Arrow = tuple[str, str]


class LateImport(NamedTuple):
    """An import in a function: where it is, what it says, and why there, where a comment beside it says so."""

    file: str
    line: int
    statement: str
    reason: str


def rooms(package: str) -> set[str]:
    """The modules and packages directly in `package`."""
    return {
        path.stem
        for path in PACKAGES[package].glob("[!_]*")
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }


def arrows(package: str) -> set[Arrow]:
    """(room, room that it imports) within `package`."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    found: set[Arrow] = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            ends = [name.split(".")[1] for name in (module, imported) if name.startswith(f"{package}.")]
            if len(ends) == 2 and "__main__" not in ends:  # a command is no room
                found.add((ends[0], ends[1]))
    return {ends for ends in found if ends[0] != ends[1]}


def circles(of: set[Arrow]) -> list[list[str]]:
    """Groups of rooms that import each other, directly or through others."""
    reach = {start: _reached(start, of) for start, _ in of}
    groups = {frozenset({a, *(b for b in reach[a] if a in reach.get(b, ()))}) for a in reach if a in reach[a]}
    return sorted(sorted(group) for group in groups)


def _reached(start: str, of: set[Arrow]) -> set[str]:
    reached: set[str] = set()
    ahead = [start]
    while ahead:
        room = ahead.pop()
        further = {end for begin, end in of if begin == room} - reached
        reached |= further
        ahead += further
    return reached


def long_files(most: int = LONGEST) -> list[tuple[str, int]]:
    """(file, lines) of the engine's and the applications' files with more than `most` lines."""
    counts = [(_shown(path), len(path.read_text().splitlines())) for path in _files(*PACKAGES)]
    return [(file, count) for file, count in counts if count > most]


def late_imports(package: str = "dd_core") -> list[LateImport]:
    """Every import in a function of `package`."""
    return [late for path in _files(package) for late in late_imports_in(path.read_text(), _shown(path))]


def late_imports_in(source: str, file: str = "") -> Iterator[LateImport]:
    """The imports in functions of a module's source; the reason is the comment at the end of the line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    functions = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    imports = {
        node.lineno: node
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    for line, node in sorted(imports.items()):
        yield LateImport(file, line, ast.unparse(node), comments.get(line, ""))


def _files(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted(PACKAGES[package].rglob("*.py"))]


def _shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def main() -> None:
    """Print the counts, and the items that are counted."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for package in PACKAGES:
        between = arrows(package)
        print(f"{package}: {len(rooms(package))} rooms, {len(between)} arrows, {len(circles(between))} circles")
        for group in circles(between):
            print(f"  circle: {', '.join(group)}")
    late = late_imports()
    print(f"late imports in dd_core: {len(late)} (at most {MOST_LATE_IMPORTS})")
    for entry in late:
        print(f"  {entry.file}:{entry.line}: {entry.statement}  # {entry.reason}")
    print(f"files above {LONGEST} lines: {len(long_files())}")
    for file, count in long_files():
        print(f"  {file}: {count}")


if __name__ == "__main__":
    main()

"""Render the figures of the documents from the records: the blocks from `<!-- table NAME -->` to `<!-- end -->`.

    python benchmarks/tables.py             # make tables: rewrites the blocks
    python benchmarks/tables.py --check     # names the blocks that differ from the records

A block is a function without arguments that returns lines of Markdown; the modules below hold them by name. Blocks are
in REPRODUCIBILITY.md, but for those of `README_BLOCKS`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import blocks_compare
import blocks_continual
import blocks_continual_cpu
import blocks_gpu
import blocks_methods
import blocks_mnist
import blocks_nas
import blocks_nas_cpu
import blocks_peers
import blocks_speed
import blocks_sre2l
import blocks_tiny
import blocks_trajectories
import blocks_transfer

ROOT = Path(__file__).parents[1]
DOCUMENTS = ROOT / "README.md", ROOT / "REPRODUCIBILITY.md"
README_BLOCKS = {"peers"}
BLOCKS: Mapping[str, Callable[[], list[str]]] = {
    **blocks_methods.BLOCKS,
    **blocks_mnist.BLOCKS,
    **blocks_trajectories.BLOCKS,
    **blocks_gpu.BLOCKS,
    **blocks_tiny.BLOCKS,
    **blocks_continual.BLOCKS,
    **blocks_continual_cpu.BLOCKS,
    **blocks_nas.BLOCKS,
    **blocks_nas_cpu.BLOCKS,
    **blocks_sre2l.BLOCKS,
    **blocks_transfer.BLOCKS,
    **blocks_compare.BLOCKS,
    **blocks_peers.BLOCKS,
    **blocks_speed.BLOCKS,
}
_BLOCK = re.compile(r"<!-- table (?P<name>[\w-]+) -->\n(?P<body>.*?)\n?<!-- end -->", re.DOTALL)


def main() -> None:
    """Rewrite the document, or say where it differs from the records."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where a block differs")
    options = parser.parse_args()
    texts = {document: document.read_text(encoding="utf-8") for document in DOCUMENTS}
    different = [line for document, text in texts.items() for line in differing(text, blocks_of(document))]
    print("\n".join(different) or "every block is as the records have it")
    if options.check:
        sys.exit(1 if different else 0)
    for document, text in texts.items():
        document.write_text(rendered(text), encoding="utf-8")


def blocks_of(document: Path) -> list[str]:
    """The names of the blocks that a document is to have."""
    return [name for name in BLOCKS if (name in README_BLOCKS) == (document.name == "README.md")]


def rendered(text: str) -> str:
    """`text` with every block rendered from the records; raises ValueError for a block that nothing renders."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- table {name} -->\n{body(name)}\n<!-- end -->"

    return _BLOCK.sub(block, text)


def body(name: str) -> str:
    """A block as the records have it: blank lines around it, as Markdown wants them beside a comment."""
    if name not in BLOCKS:
        raise ValueError(f"a document has a table '{name}', which no function renders")
    return "\n".join(["", *BLOCKS[name](), ""])


def differing(text: str, wanted: Sequence[str]) -> list[str]:
    """The blocks of `text` that are not as the records have them, and the `wanted` ones that it lacks, in words."""
    found = {match["name"]: match["body"] for match in _BLOCK.finditer(text)}
    changed = [f"{name}: differs from the records; make tables" for name, old in found.items() if old != body(name)]
    return changed + [f"{name}: not in the document" for name in wanted if name not in found]


if __name__ == "__main__":
    main()

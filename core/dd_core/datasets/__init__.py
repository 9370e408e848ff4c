"""Real images by name, from a folder, or out of what a program has at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.datasets.named import DATASETS, check_name, class_names, load, once
from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.datasets.plain import as_source

__all__ = ["DATASETS", "as_source", "check_name", "class_names", "load", "once"]
__getattr__ = names_of(__name__, {"as_source": "plain"})

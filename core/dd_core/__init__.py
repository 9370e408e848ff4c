"""Dataset distillation: an image dataset in, a compact synthetic set out.

The names below are what most programs need; each is loaded when it is first used, so `import dd_core` is
quick and imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.datasets import load as load_data
    from dd_core.distilled import DistilledSet, Manifest, Size
    from dd_core.errors import UserError
    from dd_core.evaluation import evaluate
    from dd_core.images import LabelledImages, Source
    from dd_core.methods import method
    from dd_core.recipe import Recipe
    from dd_core.runner import distill
    from dd_core.selection import join
    from dd_core.store import read_set, write_set
    from dd_core.training import train

_HOME = {
    "DistilledSet": "distilled",
    "LabelledImages": "images",
    "Manifest": "distilled",
    "Recipe": "recipe",
    "Size": "distilled",
    "Source": "images",
    "UserError": "errors",
    "distill": "runner",
    "evaluate": "evaluation",
    "join": "selection",
    "load_data": "datasets:load",
    "method": "methods",
    "read_set": "store",
    "train": "training",
    "write_set": "store",
}
__version__ = "0.1.0"
__all__ = [
    "DistilledSet",
    "LabelledImages",
    "Manifest",
    "Recipe",
    "Size",
    "Source",
    "UserError",
    "distill",
    "evaluate",
    "join",
    "load_data",
    "method",
    "read_set",
    "train",
    "write_set",
]

__getattr__ = names_of(__name__, _HOME)

"""Dataset distillation: an image dataset in, a compact synthetic set out.

The names below are what most programs need; each is loaded when it is first used, so `import dd_core` is
quick and imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.datasets import as_source
    from dd_core.datasets import load as load_data
    from dd_core.distilled import DistilledSet, Manifest, Pixels, Size
    from dd_core.errors import DDError, Diverged, Interrupted, OutOfResources, UserError
    from dd_core.evaluation import Evaluation, evaluate
    from dd_core.images import InputForm, LabelledImages, Source
    from dd_core.methods import method
    from dd_core.methods.presets import preset
    from dd_core.recipe import Recipe
    from dd_core.runner import Forecast, Reporter, RunOptions, distill, forecast
    from dd_core.selection import join
    from dd_core.store import read_set, write_set
    from dd_core.system.parallel import Workers
    from dd_core.system.progress import Progress
    from dd_core.system.reporter import Messages, Silent
    from dd_core.training import train

_HOME = {
    "DDError": "errors",
    "DistilledSet": "distilled",
    "Diverged": "errors",
    "Evaluation": "evaluation",
    "Forecast": "runner",
    "InputForm": "images",
    "Interrupted": "errors",
    "LabelledImages": "images",
    "Manifest": "distilled",
    "Messages": "system.reporter",
    "OutOfResources": "errors",
    "Pixels": "distilled",
    "Progress": "system.progress",
    "Recipe": "recipe",
    "Reporter": "runner",
    "RunOptions": "runner",
    "Silent": "system.reporter",
    "Size": "distilled",
    "Source": "images",
    "UserError": "errors",
    "Workers": "system.parallel",
    "as_source": "datasets",
    "distill": "runner",
    "evaluate": "evaluation",
    "forecast": "runner",
    "join": "selection",
    "load_data": "datasets:load",
    "method": "methods",
    "preset": "methods.presets",
    "read_set": "store",
    "train": "training",
    "write_set": "store",
}
__version__ = "0.1.0"
__all__ = [
    "DDError",
    "DistilledSet",
    "Diverged",
    "Evaluation",
    "Forecast",
    "InputForm",
    "Interrupted",
    "LabelledImages",
    "Manifest",
    "Messages",
    "OutOfResources",
    "Pixels",
    "Progress",
    "Recipe",
    "Reporter",
    "RunOptions",
    "Silent",
    "Size",
    "Source",
    "UserError",
    "Workers",
    "as_source",
    "distill",
    "evaluate",
    "forecast",
    "join",
    "load_data",
    "method",
    "preset",
    "read_set",
    "train",
    "write_set",
]

__getattr__ = names_of(__name__, _HOME)

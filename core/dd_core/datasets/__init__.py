"""Real images by name, or from a folder."""

from __future__ import annotations

from dd_core.datasets.named import DATASETS, check_name, class_names, load, once

__all__ = ["DATASETS", "check_name", "class_names", "load", "once"]

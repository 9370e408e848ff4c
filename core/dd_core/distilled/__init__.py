"""Distilled sets: values only, no disk, and no torch until a tensor is asked for."""

from __future__ import annotations

from dd_core.distilled.given import as_size
from dd_core.distilled.layouts import Layout, layout_problems, pretraining_problems
from dd_core.distilled.sets import (
    IMAGENET,
    DistilledSet,
    Manifest,
    Pixels,
    Provenance,
    Size,
    Statistics,
    arrays_of,
)

__all__ = [
    "IMAGENET",
    "DistilledSet",
    "Layout",
    "Manifest",
    "Pixels",
    "Provenance",
    "Size",
    "Statistics",
    "arrays_of",
    "as_size",
    "layout_problems",
    "pretraining_problems",
]

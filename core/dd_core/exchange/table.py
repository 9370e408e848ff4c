"""The formats by name: what a user types, and the function that writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dd_core.distilled import DistilledSet
from dd_core.exchange.challenge import export_challenge
from dd_core.exchange.class_folders import export_sre2l
from dd_core.exchange.feature_files import export_krr_st
from dd_core.exchange.formats import Export
from dd_core.exchange.mtt_files import export_mtt
from dd_core.exchange.pictures import export_png

EXPORTS: Mapping[str, Callable[[DistilledSet, Path], Export]] = {
    "challenge": export_challenge,
    "krr-st": export_krr_st,
    "mtt": export_mtt,
    "png": export_png,
    "sre2l": export_sre2l,
}

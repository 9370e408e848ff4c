"""Distilled sets to other projects' files and back. Naming the formats loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.exchange.challenge import export_challenge, import_challenge
    from dd_core.exchange.class_folders import export_sre2l, import_sre2l
    from dd_core.exchange.feature_files import export_krr_st, import_krr_st
    from dd_core.exchange.formats import IMPORTS, STATISTICS, pixels_like, read_bytes, write_files
    from dd_core.exchange.mtt_files import IMAGES, LABELS, RATE, SIDECAR, MttFiles, export_mtt, import_mtt
    from dd_core.exchange.pictures import export_png
    from dd_core.exchange.table import EXPORTS
    from dd_core.exchange.weights import keep_weights, read_weights, with_weights_kept

__all__ = [
    "EXPORTS",
    "IMAGES",
    "IMPORTS",
    "LABELS",
    "RATE",
    "SIDECAR",
    "STATISTICS",
    "MttFiles",
    "export_challenge",
    "export_krr_st",
    "export_mtt",
    "export_png",
    "export_sre2l",
    "import_challenge",
    "import_krr_st",
    "import_mtt",
    "import_sre2l",
    "keep_weights",
    "pixels_like",
    "read_bytes",
    "read_weights",
    "with_weights_kept",
    "write_files",
]
__getattr__ = names_of(
    __name__,
    {
        "EXPORTS": "table",
        "IMAGES": "mtt_files",
        "IMPORTS": "formats",
        "LABELS": "mtt_files",
        "MttFiles": "mtt_files",
        "RATE": "mtt_files",
        "SIDECAR": "mtt_files",
        "STATISTICS": "formats",
        "export_challenge": "challenge",
        "export_krr_st": "feature_files",
        "export_mtt": "mtt_files",
        "export_png": "pictures",
        "export_sre2l": "class_folders",
        "import_challenge": "challenge",
        "import_krr_st": "feature_files",
        "import_mtt": "mtt_files",
        "import_sre2l": "class_folders",
        "keep_weights": "weights",
        "pixels_like": "formats",
        "read_bytes": "formats",
        "read_weights": "weights",
        "with_weights_kept": "weights",
        "write_files": "formats",
    },
)

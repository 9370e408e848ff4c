"""Sets as other projects store them, and theirs as sets."""

from __future__ import annotations

from dd_core.exchange.formats import (
    EXPORTS,
    IMAGES,
    IMPORTS,
    LABELS,
    RATE,
    SIDECAR,
    STATISTICS,
    MttFiles,
    export_challenge,
    export_mtt,
    export_png,
    import_challenge,
    import_mtt,
    pixels_like,
    write_files,
)

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
    "export_mtt",
    "export_png",
    "import_challenge",
    "import_mtt",
    "pixels_like",
    "write_files",
]

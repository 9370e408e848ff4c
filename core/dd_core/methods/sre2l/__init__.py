"""`sre2l`: squeeze, recover, relabel. Only `config` is read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.methods.sre2l.planning import check_source, footprint, recovered_set, recovery_spec, way_of

__all__ = ["check_source", "footprint", "recovered_set", "recovery_spec", "way_of"]
__getattr__ = names_of(
    __name__,
    dict.fromkeys(__all__, "planning"),
)

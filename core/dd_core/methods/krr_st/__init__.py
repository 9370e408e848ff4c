"""`krr-st`: self-supervised distillation for transfer. Only `config` is read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.methods.krr_st.distiller import KRRSTDistiller
    from dd_core.methods.krr_st.planning import check_source, footprint, needed

__all__ = ["KRRSTDistiller", "check_source", "footprint", "needed"]
__getattr__ = names_of(
    __name__,
    {"KRRSTDistiller": "distiller", "check_source": "planning", "footprint": "planning", "needed": "planning"},
)

"""Zero-cost measures: numbers of an untrained network that predict the accuracy of its architecture after training.

`names()` lists the measures, `measure(name, network, images, labels)` computes one; higher predicts a better
architecture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_apps.nas.measures.measuring import measure
    from dd_apps.nas.measures.table import Measure, by_name, names

__all__ = ["Measure", "by_name", "measure", "names"]
__getattr__ = names_of(__name__, {"Measure": "table", "by_name": "table", "measure": "measuring", "names": "table"})

"""The distillation loop, and the folder of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of
from dd_core.system.reporter import Reporter, Silent, Stage

if TYPE_CHECKING:
    from dd_core.runner.folder import seconds_of
    from dd_core.runner.forecasting import Forecast, forecast
    from dd_core.runner.loop import RunOptions, distill

__all__ = ["Forecast", "Reporter", "RunOptions", "Silent", "Stage", "distill", "forecast", "seconds_of"]
__getattr__ = names_of(
    __name__,
    {
        "Forecast": "forecasting",
        "RunOptions": "loop",
        "distill": "loop",
        "forecast": "forecasting",
        "seconds_of": "folder",
    },
)

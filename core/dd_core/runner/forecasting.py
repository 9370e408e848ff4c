"""A forecast of a run's time, from timing its first steps.

    print(forecast("mtt", images, 10))      # about 25 min: 10 experts 9 min, 300 steps 16 min

No result depends on a forecast, and a forecast leaves no file behind.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dd_core import artefacts
from dd_core.artefacts import ArtefactSpec, Resources
from dd_core.datasets import plain
from dd_core.datasets.plain import Images
from dd_core.distilled import Size, as_size
from dd_core.distiller import Context, MethodConfig
from dd_core.images import Source
from dd_core.methods import as_method
from dd_core.runner.loop import RunOptions, guarded, memory_guard
from dd_core.streams import require_seed
from dd_core.system import device as devices
from dd_core.system import surroundings
from dd_core.system.threads import computing, require_cores

REHEARSED_SECONDS = 4.0  # how long steps are timed, after the first step
BUSY = 0.75  # part of the cores; above it a step waits for other programs
SLOW_SECONDS = 15.0  # where the first step takes longer, no other step is timed


@dataclass(frozen=True)
class Forecast:
    """Seconds that the parts of a run take on this machine, busy as it is now; `str` gives one line."""

    method: str
    steps: int
    stepping: float | None  # seconds of all steps; None where they cannot be forecast
    making: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Seconds to make each missing artefact ("10 experts"); None where they cannot be forecast."""
    load: float | None = None
    """The system's load in the minute before the forecast, without this process's own computing, where the load keeps
    most of the cores busy; else None."""

    @property
    def seconds(self) -> float:
        """Seconds of all parts that can be forecast, together."""
        return sum(part or 0.0 for part in (self.stepping, *self.making.values()))

    @property
    def untold(self) -> tuple[str, ...]:
        """Names of the parts whose time cannot be forecast."""
        return tuple(name for name, part in self._parts.items() if part is None)

    @property
    def _parts(self) -> dict[str, float | None]:
        steps = {f"{self.steps} steps": self.stepping} if self.steps else {}
        return {**self.making, **steps}

    def __str__(self) -> str:
        told = {name: part for name, part in self._parts.items() if part is not None}
        rest = f"; the time of {' and '.join(self.untold)} cannot be forecast" if self.untold else ""
        if not told:
            return f"no forecast for {self.method}{rest}"
        parts = ", ".join(f"{name} {duration(part)}" for name, part in told.items())
        return f"{self.method} takes about {duration(self.seconds)} on this machine ({parts}){rest}{self._busy}"

    @property
    def _busy(self) -> str:
        if self.load is None:
            return ""
        return f"; this machine is busy (load {self.load:.1f}, {os.cpu_count() or 1} cores), and an idle one takes less"


@surroundings.own()
def forecast(
    method: str | Mapping[str, Any] | MethodConfig,
    source: Source | Images,
    size: Size | int | np.integer[Any],
    *,
    seed: int = 0,
    options: RunOptions | None = None,
) -> Forecast:
    """Forecast how long `distill` with the same arguments takes on this machine; cached artefacts count as no time.

    A few steps are run and timed, which takes seconds, or up to a minute where steps are slow. Where a method's steps
    need an artefact that takes long (a teacher, say), the time of the steps is not forecast. Raises what `distill`
    raises before its first step.
    """
    config, size, seed = as_method(method), as_size(size), require_seed(seed)
    options = options or RunOptions()
    if options.threads is not None:
        require_cores(options.threads)
    device = devices.resolve(options.device)
    load = _load() if device.type == "cpu" else None
    source = plain.given(source, what="source")
    with computing(options.threads or torch.get_num_threads()):
        config.check(source, size)
        making = _making(config, source, size, seed=seed, options=options, device=device)
        stepping = _stepping(config, source, size, seed=seed, device=device)
    return Forecast(config.name, config.steps, stepping, making, load)


def _load() -> float | None:
    """See `Forecast.load`; None also where the system tells no load."""
    cores = os.cpu_count() or 1
    own = min(cores, sum(os.times()[:4]) / 60)  # the most that this process can have added in a minute
    try:
        load = os.getloadavg()[0] - own
    except (AttributeError, OSError):
        return None
    return load if load > BUSY * cores else None


def _making(
    config: MethodConfig, source: Source, size: Size, *, seed: int, options: RunOptions, device: torch.device
) -> dict[str, float | None]:
    """Seconds to make each artefact that is not in the cache; None where they cannot be forecast."""
    resources, workers = Resources.of([source], device=str(device)), options.workers
    making: dict[str, float | None] = {}
    for role, spec in config.needs(source, size=size, seed=seed).items():
        if missing := artefacts.missing(spec):
            each = spec.seconds(resources, missing)
            at_once = min(missing, 1 if workers is None else workers.count)
            making[_called(spec, role, missing)] = None if each is None else each / at_once
    return making


def _called(spec: ArtefactSpec, role: str, count: int) -> str:
    noun = spec.noun or f"part of {role}"
    return f"{count} {noun if count == 1 else artefacts.several(noun)}"


def _stepping(config: MethodConfig, source: Source, size: Size, *, seed: int, device: torch.device) -> float | None:
    """Seconds of all steps, from timing the first few of the method's rehearsal; None if it has no rehearsal."""
    rehearsal = config.rehearsal(source, size)
    if rehearsal is None:
        return None
    if config.steps == 0:
        return 0.0
    short, images = rehearsal
    with tempfile.TemporaryDirectory(prefix="dd-apps-forecast-") as cache:
        context = Context.gather(short, images, size, seed=seed, device=device, cache=Path(cache))
        with memory_guard("while preparing the forecast"):
            distiller = short.build(context)
        step = partial(guarded, distiller, kept="this was a forecast, and nothing is lost")
        return config.steps * seconds_a_step(step, config.steps)


def seconds_a_step(step: Callable[[int], object], most: int) -> float:
    """Mean seconds of a step, timed for `REHEARSED_SECONDS`; the slower first one counts only if no other is timed."""
    first = _timed(step, 0)
    if first > SLOW_SECONDS or most == 1:
        return first
    times: list[float] = []
    while sum(times) < REHEARSED_SECONDS and len(times) + 1 < most:
        times.append(_timed(step, len(times) + 1))
    return sum(times) / len(times)


def _timed(step: Callable[[int], object], index: int) -> float:
    begun = time.monotonic()
    step(index)
    return time.monotonic() - begun


def duration(seconds: float) -> str:
    """Seconds in words, to two figures at most: `12 s`, `7 min`, `2.5 h`, `4 days`."""
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{round(hours)} h" if hours < 72 else f"{round(hours / 24)} days"

"""The state of a row's training between two experiences, from which another process resumes.

The state is tensors and plain values: the network, its optimiser, Avalanche's counters, the global generators, and the
rows that a memory of real images stored. No object of Avalanche is pickled. Distilled memories are sets in the folder
already. Strategies with further state of their own (DER, iCaRL, LwF, EWC) start their job over.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dd_apps.continual.adapter import (
    AvalancheDataset,
    Cumulative,
    FromScratchTrainingPlugin,
    GDumbPlugin,
    classes_of,
    concat_datasets,
    warnings_contained,
)
from dd_apps.continual.buffer import DistilledBuffer
from dd_apps.continual.guard import Guard
from dd_apps.continual.strategies import Memory
from dd_apps.continual.strategies.memories import FilledHerding, FilledReservoir
from dd_apps.continual.strategies.stepping import Augmentation
from dd_core import store

with warnings_contained():
    from avalanche.training.storage_policy import (
        ReservoirSamplingBuffer,
        _ParametricSingleBuffer,  # pyright: ignore[reportPrivateUsage] (a class of herded images is one)
    )

RESUMED = ("replay", "gdumb", "er-ace", "naive", "cumulative")


@dataclass(frozen=True)
class Progress:
    """The file of one network's progress through the stream; without a path nothing is kept."""

    path: Path | None

    def read(self) -> dict[str, Any] | None:
        """The state that an earlier process wrote after its last experience; None if there is none."""
        if self.path is None or not self.path.exists():
            return None
        return store.read_state(self.path)[0]

    def write(self, state: Mapping[str, Any]) -> None:
        """Write a state, in place of the earlier state."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            store.write_state(self.path, state, {})

    def remove(self) -> None:
        """Delete the file."""
        if self.path is not None:
            with store.disk_errors(self.path):
                self.path.unlink(missing_ok=True)


# --- the strategy ------------------------------------------------------------------------------------------------


def strategy_state(strategy: Any) -> dict[str, Any]:
    """The state of a strategy of `RESUMED` after an experience, and the states of the random generators."""
    augmentation = _plugin(strategy, Augmentation)
    return {
        "network": dict(strategy.model.state_dict()),
        "optimiser": strategy.optimizer.state_dict(),
        "clock": dict(vars(strategy.clock)),
        "augmentation": 0 if augmentation is None else augmentation.step,
        "generators": _generators(),
    }


def load_strategy(strategy: Any, state: Mapping[str, Any], experiences: Sequence[Any]) -> None:
    """Bring a new strategy into a `state` that was taken after `experiences`."""
    first: nn.Module = copy.deepcopy(strategy.model)  # GDumb and training from scratch start from it each time
    strategy.model.load_state_dict(state["network"])
    strategy.make_optimizer(reset_optimizer_state=True)  # else Avalanche would, later, and lose the loaded state
    strategy.optimizer.load_state_dict(state["optimiser"])
    vars(strategy.clock).update(state["clock"])
    if (gdumb := _plugin(strategy, GDumbPlugin)) is not None:
        gdumb.init_model = first
    if (scratch := _plugin(strategy, FromScratchTrainingPlugin)) is not None:
        scratch.initial_weights = first.state_dict()
    if (augmentation := _plugin(strategy, Augmentation)) is not None:
        augmentation.step = state["augmentation"]
    if isinstance(strategy, Cumulative):
        strategy.dataset = None
        for experience in experiences:
            seen: Any = strategy.dataset
            strategy.dataset = experience.dataset if seen is None else concat_datasets([seen, experience.dataset])
    _set_generators(state["generators"])


def _plugin(strategy: Any, kind: type[Any]) -> Any:
    return next((plugin for plugin in strategy.plugins if isinstance(plugin, kind)), None)


def _generators() -> dict[str, Any]:
    """The CPU's global generators, which Avalanche draws from."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(name), np.asarray(keys, dtype=np.int64), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
    }


def _set_generators(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])


# --- the memory --------------------------------------------------------------------------------------------------


def memory_state(memory: Memory | None, guard: Guard) -> dict[str, Any] | None:
    """The rows of the training images that a memory of real images stored; None for other memories."""
    if memory is None or isinstance(memory, DistilledBuffer):
        return None
    if isinstance(memory, FilledReservoir):
        return {"groups": [_group(0, memory, memory._buffer, guard)]}  # pyright: ignore[reportPrivateUsage]
    return {"groups": [_group(label, group, group.buffer, guard) for label, group in memory.buffer_groups.items()]}


def _group(label: int, group: Any, stored: AvalancheDataset, guard: Guard) -> dict[str, Any]:
    with guard.recording() as rows:
        for position in range(len(stored)):
            stored[position]
    weights = getattr(group, "_buffer_weights", None)
    return {"label": label, "size": group.max_size, "rows": np.array(rows, dtype=np.int64), "weights": weights}


def load_memory(memory: Memory, state: Mapping[str, Any], experiences: Sequence[Any], labels: np.ndarray) -> None:
    """Store again what a memory of real images had stored; `labels` are those of all training images."""
    for group in state["groups"]:
        data = _subset(group["rows"], experiences, labels)
        if isinstance(memory, FilledReservoir):
            memory.buffer, memory._buffer_weights = data, group["weights"]  # pyright: ignore[reportPrivateUsage]
            return
        label, size = group["label"], group["size"]
        if isinstance(memory, FilledHerding):
            made: Any = _ParametricSingleBuffer(size, memory.selection_strategy)
            memory.seen_groups.add(label)
        else:
            assert not isinstance(memory, DistilledBuffer)
            made = ReservoirSamplingBuffer(size)
            made._buffer_weights = group["weights"]
            memory.seen_classes.add(label)
        made.buffer = data
        memory.buffer_groups[label] = made


def _subset(rows: np.ndarray, experiences: Sequence[Any], labels: np.ndarray) -> AvalancheDataset:
    """The training images at `rows`, in this order, as items of the experiences."""
    parts: list[Any] = []
    places: dict[int, int] = {}
    for experience in experiences:
        for label, positions in classes_of(experience.dataset).items():
            positions_of = dict(zip(np.flatnonzero(labels == label).tolist(), positions, strict=True))
            own = [row for row in rows.tolist() if row in positions_of]
            if own:
                start = len(places)
                parts.append(experience.dataset.subset([positions_of[row] for row in own]))
                places |= {row: start + place for place, row in enumerate(own)}
    return concat_datasets(parts).subset([places[row] for row in rows.tolist()])

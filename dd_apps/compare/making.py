"""The sets of a comparison: distilled sets, the artefacts that they need, and real images of as many bytes."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path

from dd_apps.compare.cells import Cell, MakeJob, as_stored, bytes_of, made
from dd_apps.compare.config import CompareScenario
from dd_core import artefacts, exchange, store
from dd_core.artefacts import Resources
from dd_core.distilled import DistilledSet, Size
from dd_core.distiller import MethodConfig
from dd_core.images import Source, indices_by_class
from dd_core.runner import RunOptions, Silent, seconds_of
from dd_core.system.parallel import Pool

SUFFIX = ".safetensors"
COSTS = "artefacts.json"  # seconds that making each artefact took, by the artefact's digest


@dataclass(frozen=True)
class RealImages:
    """The file of real images of as many bytes as a distilled set.

    counts: images of each class. short: whether a class has fewer real images than the bytes have room for.
    """

    file: Path
    counts: tuple[int, ...]
    short: bool


@dataclass(frozen=True)
class Sets:
    """Makes the sets of a scenario in `folder`, or finds them there; no image but those of `train` is used."""

    scenario: CompareScenario
    folder: Path
    train: Source
    options: RunOptions
    pool: Pool
    _bytes: dict[Path, int] = field(default_factory=dict[Path, int])

    # --- distilled --------------------------------------------------------------------------------------------------

    @cached_property
    def configs(self) -> Mapping[tuple[str, int], MethodConfig]:
        """The config of each row at each ipc; weights from a file are named by the digest of their content."""
        return {place: exchange.with_weights_kept(config) for place, config in self.scenario.configs.items()}

    def places(self) -> list[tuple[str, int, int]]:
        """(method, ipc, seed) of every distilled set."""
        scenario = self.scenario
        return [*product(scenario.methods, scenario.ipcs, scenario.set_seeds)]

    def file(self, method: str, ipc: int, seed: int) -> Path:
        """The file of a distilled set; without `anew` all seeds have the set of the first seed."""
        seed = seed if self.scenario.anew else self.scenario.seed
        return self.folder / "sets" / f"{method}-ipc-{ipc}-seed-{seed}{SUFFIX}"

    def file_of(self, cell: Cell) -> Path:
        """The file of a cell's distilled set, which its real images are compared with."""
        return self.file(cell.method, cell.ipc, cell.seed)

    def distil(self, needed: Collection[Path]) -> dict[Path, str]:
        """Make the needed sets; returns the reason, by file, for each set whose method diverged."""
        data = self.scenario.real_images
        jobs = [
            MakeJob(self.configs[method, ipc], Size(ipc=ipc), seed, self.file(method, ipc, seed), data)
            for method, ipc, seed in self.places()
            if self.file(method, ipc, seed) in needed
        ]
        self._make_artefacts(jobs)
        return self._make("distilled sets", jobs)

    def first(self, method: str, ipc: int) -> DistilledSet | None:
        """The set of the first seed, as it is scored; None if the method diverged."""
        file = self.file(method, ipc, self.scenario.seed)
        return as_stored(store.read_set(file), self.scenario.stored) if file.exists() else None

    # --- artefacts ----------------------------------------------------------------------------------------------------

    def _make_artefacts(self, jobs: Sequence[MakeJob]) -> None:
        """Make experts, teachers and the like before any set, so that all workers share the work on each."""
        file = self.folder / COSTS
        seconds: dict[str, float] = store.read_json(file) if file.exists() else {}
        resources = Resources.of([self.train], device=self.options.device)
        for job in jobs:
            for spec in job.config.needs(self.train, size=job.size, seed=job.seed).values():
                if artefacts.complete(spec):
                    continue
                begun = time.monotonic()
                artefacts.get(spec, resources=resources, workers=self.pool.workers, reporter=self.options.reporter)
                seconds[spec.digest()] = round(time.monotonic() - begun, 3)
                store.write_json(file, seconds)

    def artefact_seconds(self, method: str, ipc: int) -> float | None:
        """Seconds that making the artefacts of a method took; None if one of them was in the cache before."""
        file = self.folder / COSTS
        seconds: dict[str, float] = store.read_json(file) if file.exists() else {}
        specs = self.configs[method, ipc].needs(self.train, size=Size(ipc=ipc), seed=self.scenario.seed).values()
        taken = [seconds.get(spec.digest()) for spec in specs]
        return None if None in taken else sum(filter(None, taken))

    # --- real -------------------------------------------------------------------------------------------------------

    def real(self, cell: Cell) -> RealImages:
        """The real images of a cell: as many as fit into the bytes of its distilled set, one a class at least."""
        file = self.file_of(cell)
        if file not in self._bytes:
            self._bytes[file] = bytes_of(as_stored(store.read_set(file), self.scenario.stored))
        classes = len(self.train.classes)
        images = max(classes, self._bytes[file] // math.prod(self.train.image_shape))
        wanted = Size(images=images).per_class(classes)
        counts = tuple(min(want, have) for want, have in zip(wanted, self._members, strict=True))
        name = f"{cell.baseline}-images-{images}-seed-{cell.seed}{SUFFIX}"
        return RealImages(self.folder / "real" / name, counts, counts != wanted)

    @cached_property
    def _members(self) -> list[int]:
        """Real images of each class."""
        return [len(rows) for rows in indices_by_class(self.train)]

    def choose(self, cells: Sequence[Cell]) -> None:
        """Choose or average the real images of cells."""
        configs, data = self.scenario.baseline_configs, self.scenario.real_images
        jobs: dict[Path, MakeJob] = {}
        for cell in cells:
            real = self.real(cell)
            jobs[real.file] = MakeJob(configs[cell.baseline], Size.of(real.counts), cell.seed, real.file, data)
        self._make("sets of real images", [job for file, job in jobs.items() if not file.exists()])

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _make(self, name: str, jobs: Sequence[MakeJob]) -> dict[Path, str]:
        failed: dict[Path, str] = {}
        if not jobs:
            return failed
        alone = self.pool.workers.count == 1 and self.pool.workers.engine == "processes"
        # a job in this process shows its own progress; a job in another process cannot
        options = replace(self.options, workers=None, reporter=self.options.reporter if alone else Silent())
        with self.options.reporter.stage(name, total=len(jobs)) as stage:
            for index, reason in self.pool.as_finished(partial(made, options=options), jobs):
                if reason is not None:
                    failed[jobs[index].out] = reason
                    self.options.reporter.message(f"{jobs[index].out.stem} diverged: {reason}")
                stage.advance()
        return failed


def seconds(files: Mapping[Path, object] | Sequence[Path]) -> list[float]:
    """Seconds that making each set took; files that do not exist are left out."""
    return [seconds_of(file) for file in files if file.exists()]

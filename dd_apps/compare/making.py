"""The sets of a comparison: distilled ones, what they are made from, and real images of as many bytes."""

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
COSTS = "artefacts.json"  # seconds that making each artefact took, by its digest


@dataclass(frozen=True)
class RealImages:
    """The file of real images for the bytes of a distilled set; short: a class has fewer than the bytes have room for.

    counts: images of each class.
    """

    file: Path
    counts: tuple[int, ...]
    short: bool


@dataclass(frozen=True)
class Sets:
    """Makes the sets of a scenario in `folder`, or finds them there. `train` are all real images that it looks at."""

    scenario: CompareScenario
    folder: Path
    train: Source
    options: RunOptions
    pool: Pool
    _bytes: dict[Path, int] = field(default_factory=dict[Path, int])

    # --- distilled --------------------------------------------------------------------------------------------------

    @cached_property
    def configs(self) -> Mapping[tuple[str, int], MethodConfig]:
        """The config of each distilled row at each size; weights that it names by a file are named by content."""
        return {place: exchange.with_weights_kept(config) for place, config in self.scenario.configs.items()}

    def places(self) -> list[tuple[str, int, int]]:
        """(method, ipc, seed) of every distilled set."""
        scenario = self.scenario
        return [*product(scenario.methods, scenario.ipcs, scenario.set_seeds)]

    def file(self, method: str, ipc: int, seed: int) -> Path:
        """The file of a distilled set; without `anew` the set of the first seed is that of every seed."""
        seed = seed if self.scenario.anew else self.scenario.seed
        return self.folder / "sets" / f"{method}-ipc-{ipc}-seed-{seed}{SUFFIX}"

    def file_of(self, cell: Cell) -> Path:
        """The file of the distilled set of a cell, or that its real images stand beside."""
        return self.file(cell.method, cell.ipc, cell.seed)

    def distil(self, needed: Collection[Path]) -> dict[Path, str]:
        """Make the needed sets; why there is none where a method diverged, by the file."""
        data = self.scenario.real_images
        jobs = [
            MakeJob(self.configs[method, ipc], Size(ipc=ipc), seed, self.file(method, ipc, seed), data)
            for method, ipc, seed in self.places()
            if self.file(method, ipc, seed) in needed
        ]
        self._make_artefacts(jobs)
        return self._make("distilled sets", jobs)

    def first(self, method: str, ipc: int) -> DistilledSet | None:
        """The set of the first seed as it is scored; None where there is none."""
        file = self.file(method, ipc, self.scenario.seed)
        return as_stored(store.read_set(file), self.scenario.stored) if file.exists() else None

    # --- what they are made from ------------------------------------------------------------------------------------

    def _make_artefacts(self, jobs: Sequence[MakeJob]) -> None:
        """Experts, teachers and their like come before any set: all workers make their parts."""
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
        """What making the artefacts of a method took here; None where one of them was in the cache before."""
        file = self.folder / COSTS
        seconds: dict[str, float] = store.read_json(file) if file.exists() else {}
        specs = self.configs[method, ipc].needs(self.train, size=Size(ipc=ipc), seed=self.scenario.seed).values()
        taken = [seconds.get(spec.digest()) for spec in specs]
        return None if None in taken else sum(filter(None, taken))

    # --- real -------------------------------------------------------------------------------------------------------

    def real(self, cell: Cell) -> RealImages:
        """The real images of a cell: as many as the bytes of its distilled set have room for, evenly over classes."""
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

    # --- how --------------------------------------------------------------------------------------------------------

    def _make(self, name: str, jobs: Sequence[MakeJob]) -> dict[Path, str]:
        failed: dict[Path, str] = {}
        if not jobs:
            return failed
        alone = self.pool.workers.count == 1 and self.pool.workers.engine == "processes"
        # a job in this process shows its own progress; one elsewhere cannot
        options = replace(self.options, workers=None, reporter=self.options.reporter if alone else Silent())
        with self.options.reporter.stage(name, total=len(jobs)) as stage:
            for index, reason in self.pool.as_finished(partial(made, options=options), jobs):
                if reason is not None:
                    failed[jobs[index].out] = reason
                    self.options.reporter.message(f"{jobs[index].out.stem} diverged: {reason}")
                stage.advance()
        return failed


def seconds(files: Mapping[Path, object] | Sequence[Path]) -> list[float]:
    """What making each set took, the ones that diverged left out."""
    return [seconds_of(file) for file in files if file.exists()]

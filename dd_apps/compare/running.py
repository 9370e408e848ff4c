"""All cells of a comparison: missing cells are made and scored in parallel, and kept one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dd_apps.compare.cells import Cell, CellRecord, ScoreJob, hold, key_of, scored
from dd_apps.compare.checks import check
from dd_apps.compare.config import CompareScenario, many
from dd_apps.compare.making import Sets, seconds
from dd_core.config import decode, plain
from dd_core.distilled import DistilledSet
from dd_core.evaluation import protocols
from dd_core.runner import RunOptions
from dd_core.store import Journal
from dd_core.system import device as devices
from dd_core.system.parallel import Pool, Workers


@dataclass(frozen=True)
class Cost:
    """Seconds of making each set, and of making the artefacts it needs (None: one was in the cache before)."""

    sets: Sequence[float]
    artefacts: float | None = 0.0


@dataclass(frozen=True)
class Results:
    """The record of every cell; the sets of the first seed by (method, ipc); costs by (method, baseline, ipc)."""

    records: Mapping[Cell, CellRecord]
    sets: Mapping[tuple[str, int], DistilledSet]
    costs: Mapping[tuple[str, str, int], Cost]


def run_cells(scenario: CompareScenario, folder: Path, options: RunOptions) -> Results:
    """Make and score the cells that `folder` lacks: an interrupted call resumes, a finished one trains nothing.

    Raises `UserError` before anything is made if scenario and images do not fit, and what making a set raises.
    """
    say = options.reporter.message
    workers = options.workers or Workers(count=scenario.workers)
    train, test = (scenario.real_images.load(split, workers=workers, say=say) for split in ("train", "test"))
    check(scenario, train, test)
    for split, source in (("train", train), ("test", test)):
        hold(scenario.real_images, split, source)
    book = Journal(folder=folder / "cells", work="comparison", contents="cells of")
    images = {"train": train.fingerprint(), "test": test.fingerprint()}
    with book.locked(), Pool(workers) as pool:
        book.claim(images, fresh=options.fresh)
        sets = Sets(scenario, folder, train, options, pool)
        return _Bench(scenario, folder, options, pool, book, images, sets).run()


@dataclass(frozen=True)
class _Bench:
    scenario: CompareScenario
    folder: Path
    options: RunOptions
    pool: Pool
    book: Journal
    images: Mapping[str, str]
    sets: Sets

    def run(self) -> Results:
        """Make distilled sets first, then real images of as many bytes, then scores."""
        keys = self._keys()
        records = {record.key: record for record in self._kept()}
        self._forecast(kept=sum(key in records for key in keys.values()), cells=len(keys))
        failed = self.sets.distil(
            {self.sets.file_of(cell) for cell, key in keys.items() if self._needs(cell, records.get(key))}
        )
        for cell, key in keys.items():
            if key not in records and (reason := failed.get(self.sets.file_of(cell))) is not None:
                self._keep(records, CellRecord(key=key, cell=cell, reason=f"the set diverged: {reason}"))
        missing = [cell for cell, key in keys.items() if key not in records]
        self.sets.choose([cell for cell in missing if cell.baseline])
        if missing:
            jobs = [self._job(cell, keys[cell]) for cell in missing]
            with self.options.reporter.stage("cells", total=len(keys), first=len(keys) - len(jobs)) as stage:
                for _, record in self.pool.as_finished(scored, jobs):
                    self._keep(records, record)
                    stage.advance()
        return self._results({cell: records[key] for cell, key in keys.items()})

    def _needs(self, cell: Cell, record: CellRecord | None) -> bool:
        """Whether a cell's distilled set must be made: to score it, or to draw it if its file was removed."""
        drawn = cell.seed == self.scenario.seed and not self.sets.file_of(cell).exists()
        return record is None or (drawn and record.reason is None)

    # --- cells ------------------------------------------------------------------------------------------------------

    def _cells(self) -> list[Cell]:
        """All cells; seeds vary fastest, so that two cells that share a twin seldom run at the same time."""
        scenario = self.scenario
        return [
            Cell(method=method, baseline=baseline, ipc=ipc, network=network, seed=seed)
            for method in scenario.methods
            for ipc in scenario.ipcs
            for baseline in ("", *scenario.baselines)
            for network in scenario.networks or ("",)
            for seed in scenario.all_seeds
        ]

    def _keys(self) -> dict[Cell, str]:
        """The key of each cell: a digest of all that determines its figures, known before any set is made."""
        scenario, protocol = self.scenario, protocols.load(self.scenario.protocol)
        environment = devices.environment(devices.resolve(self.options.device))
        shared = {
            "anew": scenario.anew or scenario.seed,
            "protocol": [protocol.name, protocol.version],
            "nets": scenario.nets,
            "stored": scenario.stored,
            "images": dict(self.images),
            "environment": plain(environment.model_copy(update={"threads": self.pool.workers.threads})),
        }
        configs = {place: [config.name, plain(config)] for place, config in self.sets.configs.items()}
        real = {name: plain(config) for name, config in scenario.baseline_configs.items()}
        return {
            cell: key_of(cell, {**shared, "method": configs[cell.method, cell.ipc], "real": real.get(cell.baseline)})
            for cell in self._cells()
        }

    def _kept(self) -> list[CellRecord]:
        return [decode(CellRecord, line, where=str(self.book.folder)) for line in self.book.records()]

    def _keep(self, records: dict[str, CellRecord], record: CellRecord) -> None:
        records[record.key] = record
        self.book.append(plain(record))

    def _job(self, cell: Cell, key: str) -> ScoreJob:
        real = self.sets.real(cell) if cell.baseline else None
        return ScoreJob(
            cell=cell,
            key=key,
            distilled=self.sets.file_of(cell),
            real=None if real is None else real.file,
            short=real is not None and real.short,
            data=self.scenario.real_images,
            protocol=self.scenario.protocol,
            nets=self.scenario.nets,
            stored=self.scenario.stored,
            keep=self.folder / "scores",
            device=self.options.device,
            threads=self.pool.workers.threads,
        )

    def _forecast(self, *, kept: int, cells: int) -> None:
        """Tell the user how many sets and cells there are, and how many are kept from an earlier run."""
        scenario, places = self.scenario, self.sets.places()
        there = sum(self.sets.file(*place).exists() for place in places)
        methods, sizes = many(len(scenario.methods), "method"), many(len(scenario.ipcs), "size")
        rows, networks = many(1 + len(scenario.baselines), "row"), many(max(1, len(scenario.networks)), "network")
        sets, seeds = many(len(scenario.set_seeds), "seed"), many(scenario.seeds, "seed")
        self.options.reporter.message(
            f"{many(len(places), 'set')} to distil ({methods} x {sizes} x {sets}), {there} kept from an earlier run; "
            f"{many(cells, 'cell')} to score ({methods} x {rows} x {sizes} x {networks} x {seeds}), {kept} kept"
        )

    # --- results ----------------------------------------------------------------------------------------------------

    def _results(self, records: Mapping[Cell, CellRecord]) -> Results:
        scenario, sets = self.scenario, self.sets
        drawn = {(method, ipc): sets.first(method, ipc) for method in scenario.methods for ipc in scenario.ipcs}
        costs: dict[tuple[str, str, int], Cost] = {}
        for method, ipc in drawn:
            files = dict.fromkeys(sets.file(method, ipc, seed) for seed in scenario.set_seeds)
            costs[method, "", ipc] = Cost(seconds(files), sets.artefact_seconds(method, ipc))
        for cell, record in records.items():
            if cell.baseline and record.evaluation is not None:
                place = cell.method, cell.baseline, cell.ipc
                costs[place] = Cost([*costs[place].sets, record.making] if place in costs else [record.making])
        return Results(records, {place: ds for place, ds in drawn.items() if ds is not None}, costs)

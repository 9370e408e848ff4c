"""The folder of a run: its lock, its checkpoints, its metrics, and the refusal to mix two runs."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, JsonValue

from dd_core import store
from dd_core.config import Config, decode, plain
from dd_core.distilled import DistilledSet, Size
from dd_core.errors import FRESH, OUT, UserError
from dd_core.store.journal import LOCK
from dd_core.system import device as devices
from dd_core.system.environment import Environment

if TYPE_CHECKING:
    import torch

KEPT = 2


class _Facts(Config):
    """What a checkpoint records beside the distiller's state."""

    step: int = Field(ge=0)
    seconds: float = Field(ge=0)
    identity: dict[str, JsonValue]
    environments: tuple[Environment, ...]
    artefacts: tuple[str, ...] = ()


class Identity(Config):
    """Everything that determines a run's set: runs with equal identities make the same set."""

    source: str
    fingerprint: str
    method: str
    config: dict[str, JsonValue]
    size: Size
    seed: int

    def fields(self) -> dict[str, Any]:
        """The fields of the identity, as keyword arguments of `Provenance`."""
        return {name: getattr(self, name) for name in Identity.model_fields}


@dataclass(frozen=True)
class Checkpoint:
    """The distiller's state after `step` steps, and the `seconds` that they took; at step 0 the state is None."""

    step: int = 0
    state: dict[str, Any] | None = None
    seconds: float = 0.0
    environments: tuple[Environment, ...] = ()
    artefacts: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunFolder:
    """`FILE.run/` beside `FILE.safetensors`. All methods are called under its lock."""

    out: Path
    journal: store.Journal

    @property
    def path(self) -> Path:
        """The folder."""
        return self.journal.folder

    @staticmethod
    @contextmanager
    def locked(out: Path) -> Iterator[RunFolder]:
        """Lock the folder for `out`, and remove the temporary files that killed writers left.

        Raises `UserError` for an `out` that cannot be written, and where another process holds the lock.
        """
        check_out(out)
        journal = store.Journal(folder=out.with_suffix(".run"), lines="metrics.jsonl")
        with journal.locked():
            target = store.target_of(out)
            store.remove_leftovers(target.parent, of=target.name)
            yield RunFolder(out, journal)

    def discard(self) -> None:
        """Remove the set and all files of its run but the lock."""
        with store.disk_errors(self.path):
            store.target_of(self.out).unlink(missing_ok=True)
            for file in self.path.iterdir():
                if file.name != LOCK:
                    shutil.rmtree(file) if file.is_dir() else file.unlink()

    def finished(self, identity: Identity) -> DistilledSet | None:
        """The set at `out`, or None where no file is there; raises `UserError` for a set of another identity."""
        if not self.out.exists():
            return None
        try:
            ds = store.read_set(self.out)
        except UserError as error:
            raise UserError(f"{error.text}; use another {OUT}, or {FRESH} to replace it") from None
        made = ds.manifest.provenance
        if made is None:
            raise UserError(f"{self.out}: holds a set without provenance; use another {OUT}, or {FRESH} to replace it")
        theirs = {name: plain(getattr(made, name)) for name in Identity.model_fields}
        self.journal.refuse_difference(theirs, plain(identity), where=self.out)
        self._drop_checkpoints()
        return ds

    def latest(self, identity: Identity, say: Callable[[str], None]) -> Checkpoint:
        """The newest readable checkpoint, or an empty one of step 0; raises `UserError` for another identity's."""
        paths = self._checkpoints()
        for path in reversed(paths):
            try:
                state, body = store.read_state(path)
                facts = decode(_Facts, body, where=str(path))
            except UserError as error:
                then = "starting over" if path == paths[0] else "going back to the one before"
                say(f"{error}; {then}")
                continue
            self.journal.refuse_difference(facts.identity, plain(identity))
            return Checkpoint(facts.step, state, facts.seconds, facts.environments, facts.artefacts)
        return Checkpoint()

    def save(self, checkpoint: Checkpoint, identity: Identity) -> None:
        """Write a checkpoint, and keep the one before it; older checkpoints are removed."""
        assert checkpoint.state is not None
        facts = _Facts(
            step=checkpoint.step,
            seconds=checkpoint.seconds,
            identity=plain(identity),
            environments=checkpoint.environments,
            artefacts=checkpoint.artefacts,
        )
        store.write_state(self.path / f"checkpoint-{checkpoint.step:08d}.safetensors", checkpoint.state, plain(facts))
        for old in self._checkpoints()[:-KEPT]:
            old.unlink(missing_ok=True)

    def _checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("checkpoint-*.safetensors"))

    def metrics_up_to(self, step: int) -> None:
        """Remove the metrics of all steps from index `step` on: these steps are done again."""
        self.journal.keep(lambda record: record.get("step", step) < step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line to `metrics.jsonl`."""
        self.journal.append({"step": step, **metrics})

    def finish(self, ds: DistilledSet, *, seconds: float, device: torch.device) -> None:
        """Write `run.json`, then the set, so that a set never lacks its `run.json`; remove the checkpoints."""
        cost = {
            "seconds": round(seconds, 3),
            "peak_memory_bytes": devices.peak_memory_bytes(device),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": platform.node(),
            "hardware": devices.hardware(device),
        }

        def write_cost(sha256: str) -> None:
            store.write_json(self.path / "run.json", {"sha256": sha256, **cost})

        store.write_set(self.out, ds, before=write_cost)
        self._drop_checkpoints()

    def _drop_checkpoints(self) -> None:
        with store.disk_errors(self.path):
            for old in self._checkpoints():
                old.unlink(missing_ok=True)


def seconds_of(out: Path) -> float:
    """Seconds that distilling into `out` took, over all its resumptions; 0 where there is no `run.json`."""
    record = out.with_suffix(".run") / "run.json"
    return float(store.read_json(record)["seconds"]) if record.exists() else 0.0


def check_out(out: Path) -> None:
    """Raise `UserError` for an `out` that cannot be the file of a distilled set."""
    store.require_set_name(out)
    with store.disk_errors(out):
        if out.is_dir():
            raise UserError(f"{out}: is a folder; give the name of a file")
        if out.is_symlink() and not (folder := store.target_of(out).parent).is_dir():
            raise UserError(
                f"{out}: is a link into a folder that is not there: {folder}; make that folder, or use another {OUT}"
            )

"""A memory on disk, between two experiences: its sets, and a record of them. Nothing is pickled.

The sets are named by their contents and written first; the record that lists them is written last, in one step. So
whenever a run is killed, its folder holds either the earlier memory or the new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, JsonValue

from dd_apps.continual.memory.banks import StoredViews, views_digest
from dd_apps.continual.memory.holding import Held
from dd_core import store
from dd_core.config import Config, decode, plain
from dd_core.distilled import DistilledSet, Provenance
from dd_core.errors import UserError

RECORD = "memory.json"
FORMERLY = {"shrinking": "first"}  # values of options that older records lack, where not None


class KeptExperience(Config):
    """The record of an experience in a saved memory."""

    fingerprint: str = Field(description="fingerprint of the experience's real images")
    rates: int = Field(ge=0, description="learned rates that are stored with its images")
    sets: tuple[str, ...] = Field(description="digests of its sets, which name their files")
    views: str | None = Field(
        default=None,
        exclude_if=lambda digest: digest is None,
        description="digest of the views of its images with a teacher's logits, which names their file",
    )
    provenance: Provenance = Field(description="how its images were distilled")

    @staticmethod
    def of(held: Held, provenance: Provenance) -> KeptExperience:
        """The record of an experience that a memory holds."""
        return KeptExperience(
            fingerprint=held.fingerprint,
            rates=held.rates,
            sets=tuple(ds.digest() for ds in held.sets),
            views=None if held.views is None else held.views.digest(),
            provenance=provenance,
        )


class Record(Config):
    """The record of a saved memory."""

    options: dict[str, JsonValue] = Field(description="options, which a memory that restores this one must share")
    max_size: int = Field(ge=1, description="images that the memory may hold")
    seconds: float = Field(ge=0, description="seconds that distilling took so far")
    experiences: tuple[KeptExperience, ...] = Field(description="the experiences, in the order of their arrival")


def write(folder: Path, record: Record, sets: Sequence[DistilledSet], views: Sequence[StoredViews]) -> None:
    """Write a memory, and remove files of an earlier memory in the folder that it no longer holds."""
    folder.mkdir(parents=True, exist_ok=True)
    for ds in sets:
        if not _file(folder, ds.digest()).exists():
            store.write_set(_file(folder, ds.digest()), ds)
    for of_set in views:
        if not _views_file(folder, of_set.digest()).exists():
            store.write_state(_views_file(folder, of_set.digest()), vars(of_set), {})
    store.write_json(folder / RECORD, plain(record))
    named = {_file(folder, digest) for kept in record.experiences for digest in kept.sets}
    named |= {_views_file(folder, kept.views) for kept in record.experiences if kept.views is not None}
    for path in (*folder.glob("set-*.safetensors"), *folder.glob("views-*.safetensors")):
        if path not in named:
            path.unlink()


def read(folder: Path, options: Mapping[str, Any]) -> tuple[Record, dict[str, DistilledSet], dict[str, StoredViews]]:
    """A memory's record, and its sets and their views by digest.

    Raises `UserError` where the folder has no memory, a damaged memory, or a memory with other options.
    """
    if not (folder / RECORD).exists():
        raise UserError(f"{folder} has no memory that was saved")
    record = decode(Record, store.read_json(folder / RECORD), where=str(folder / RECORD))
    for name, value in options.items():
        saved = record.options.get(name, FORMERLY.get(name))
        if saved != value:
            raise UserError(
                f"{folder} has a memory with {name}={saved!r}, and this one has {name}={value!r}; restore it into a "
                "memory with the same options"
            )
    sets = {digest: store.read_set(_file(folder, digest)) for kept in record.experiences for digest in kept.sets}
    for digest, ds in sets.items():
        if ds.digest() != digest:
            raise UserError(f"{_file(folder, digest)} holds another set than the one that was saved there")
    views = {kept.views: _read_views(folder, kept.views) for kept in record.experiences if kept.views is not None}
    return record, sets, views


def _read_views(folder: Path, digest: str) -> StoredViews:
    path = _views_file(folder, digest)
    state, _ = store.read_state(path)
    if not all(isinstance(array, np.ndarray) for array in state.values()) or views_digest(state) != digest:
        raise UserError(f"{path} holds other views than those that were saved there")
    return StoredViews(**state)


def _file(folder: Path, digest: str) -> Path:
    return folder / f"set-{digest[:32]}.safetensors"


def _views_file(folder: Path, digest: str) -> Path:
    return folder / f"views-{digest[:32]}.safetensors"

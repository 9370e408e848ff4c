"""Expensive inputs that runs share: decoded folders, starting weights, experts, teachers, relabel banks.

An artefact is named by the digest of the `ArtefactSpec` that determines it. It is made once, in independent
parts, by parallel jobs. Each part is one file that appears atomically, so an interrupted job goes on where it
stopped; `complete.json` is written last, so a half-made artefact is never used. Artefacts that a spec needs are found
or made first.

    <cache>/artefacts/<kind>/<digest>/part-00000.safetensors ... complete.json
"""

from __future__ import annotations

import os
import shutil
from abc import abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from filelock import FileLock, Timeout

from dd_core import store
from dd_core.config import Config, decode, digest, plain
from dd_core.errors import Option, UserError
from dd_core.system import parallel, paths, surroundings
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Reporter, Silent

if TYPE_CHECKING:
    from dd_core.images import Source

Tensors = dict[str, np.ndarray]
MadePart = tuple[int, Tensors, Mapping[str, Any]]  # index, tensors and facts
FACTS_BYTES = 16 << 20  # most bytes of a complete.json, which takes 64 for each part


def cache_folder() -> Path:
    """Where artefacts and downloads live: `$DD_APPS_CACHE`, else `$XDG_CACHE_HOME/dd-apps`, else `~/.cache/dd-apps`.

    An `$XDG_CACHE_HOME` that is not an absolute path is ignored, as its specification says. Raises `UserError` where
    there is no home folder.
    """
    if given := os.environ.get("DD_APPS_CACHE"):
        return paths.expanded(given, option="DD_APPS_CACHE=")
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (caches if caches.is_absolute() else paths.home() / ".cache") / "dd-apps"


class ArtefactSpec(Config):
    """Everything that determines an artefact. Subclasses add fields, set `kind`, and make one part at a time.

    A field that is added later needs a default under which earlier artefacts are the same: the digest leaves out a
    field at its default, so that earlier artefacts are found. A config within a spec enters the digest as it is
    written, so a field that is added to such a config is left out at its default by `exclude_if`.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1  # raise it where the algorithm changes: earlier artefacts are then made again
    digested: ClassVar[frozenset[str]] = frozenset()  # fields that are in the digest at their default too
    source_option: ClassVar[str] = ""  # the option by which a user gives the images of `sources`, where there is one
    uses_torch: ClassVar[bool] = True  # False: jobs that make parts do not import torch
    verb: ClassVar[str] = "making"  # for messages: "training", of "training 3 experts"
    noun: ClassVar[str] = ""  # for messages: "expert", of "training 3 experts"; empty: "part of" the kind

    def digest(self) -> str:
        """sha256 of kind, fields and versions."""
        identity: dict[str, Any] = {"kind": self.kind, "spec": self.determining()}
        versions = sorted({(spec.kind, spec.version) for spec in self._with_needs() if spec.version > 1})
        return digest({**identity, "versions": versions} if versions else identity)

    def determining(self) -> dict[str, Any]:
        """The fields that are in the digest, as JSON. Override to leave out a number that no part depends on."""
        fields = type(self).model_fields
        at_default = {
            name
            for name, field in fields.items()
            if getattr(self, name) == field.get_default(call_default_factory=True)
        }
        return {name: value for name, value in plain(self).items() if name in self.digested or name not in at_default}

    def _with_needs(self) -> Iterator[ArtefactSpec]:
        yield self
        for spec in self.needs().values():
            yield from spec._with_needs()

    def needs(self) -> Mapping[str, ArtefactSpec]:
        """Other artefacts that this one is made from, by role; the fields of this spec determine each of them."""
        return {}

    def sources(self) -> Mapping[str, str]:
        """The images that the artefact is made from: names ("" where unknown) by fingerprint."""
        return {}

    def parts(self) -> int:
        """The number of independent parts. Specs of one digest may differ in this number: the artefact then grows."""
        return 1

    def part_bytes(self) -> int | None:
        """The most bytes that the tensors of a part take, and a reader accepts; None where the fields do not tell."""
        return None

    def cost(self, resources: Any, parts: int) -> str:
        """The cost of making `parts` parts, in words for the user; empty where it is unknown."""
        del resources, parts
        return ""

    def seconds(self, resources: Resources, parts: int) -> float | None:
        """Seconds in which one process makes `parts` parts, estimated by doing a little; None where unknown."""
        del resources, parts
        return None

    def outcome(self, made: Artefact) -> str:
        """A result of making the artefact, such as a loss, in words for the user; empty where there is none."""
        del made
        return ""

    @abstractmethod
    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """(tensors, facts) of one part; the same index gives the same bytes, in any process.

        `resources` is a `Resources` with the images of `sources` and the artefacts of `needs`, and no others. A spec
        with neither may be made from another picklable value, which is given to `get` as `resources`.
        """

    def at_once(self, resources: Any, *, processes: int) -> int:
        """How many parts each of so many processes makes at the same time.

        More than 1 only where the device of a process has time for several parts.
        """
        del resources, processes
        return 1

    def make_parts(
        self, indices: Sequence[int], *, resources: Any, progress: Mapping[int, Progress]
    ) -> Generator[MadePart]:
        """The parts `indices`, each as `make_part` makes it, in the order in which they are done."""
        for index in indices:
            tensors, facts = self.make_part(index, resources=resources, progress=progress[index])
            yield index, tensors, facts


@dataclass(frozen=True)
class Resources:
    """What artefacts are made from: real images by fingerprint, other artefacts by role, and a device."""

    sources: Mapping[str, Source]
    device: str = "auto"
    artefacts: Mapping[str, Artefact] = field(default_factory=dict[str, "Artefact"])

    @staticmethod
    def of(sources: Iterable[Source], *, device: str = "auto") -> Resources:
        """Resources with the images of `sources`, and no artefacts."""
        return Resources({source.fingerprint(): source for source in sources}, device)


@dataclass(frozen=True)
class Progress:
    """The file in which a job keeps the state of a long part, so that a kill costs minutes and not the part."""

    path: Path

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None where there is none or it is damaged, and the part begins again."""
        with suppress(UserError):
            return store.read_state(self.path)[0]
        return None

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep `state` (tensors and plain values) until the part is done."""
        store.write_state(self.path, state, {})


@dataclass(frozen=True)
class Artefact:
    """A complete artefact on disk. `content` is a digest of its bytes."""

    spec: ArtefactSpec
    folder: Path
    content: str

    @property
    def digest(self) -> str:
        """The digest of the spec, which names it."""
        return self.spec.digest()

    def part(self, index: int, *, mapped: bool = False) -> tuple[Tensors, dict[str, Any]]:
        """(tensors, facts) of one part, checksums verified; mapped: tensors stay on disk until they are used."""
        path, most = _part_path(self.folder, index), self.spec.part_bytes()
        fmt = store.ARTEFACT
        if most is not None:
            fmt = replace(fmt, file_bytes=most + fmt.header_bytes + 8)
        try:
            tensors, body = store.read_container(path, fmt, mapped=mapped)
        except UserError as error:
            raise UserError(f"{error.text}; remove {self.folder}, and it is made anew") from None
        if (body["artefact"], body["index"]) != (self.digest, index):
            raise UserError(f"{path}: is not the part that its name says; remove {self.folder}, and it is made anew")
        return tensors, body["facts"]

    def __len__(self) -> int:
        return self.spec.parts()

    def __iter__(self) -> Iterator[tuple[Tensors, dict[str, Any]]]:
        return (self.part(index) for index in range(len(self)))


@surroundings.own()
def get(
    spec: ArtefactSpec,
    *,
    resources: Any = None,
    workers: Workers | None = None,
    cache: Path | None = None,
    reporter: Reporter | None = None,
) -> Artefact:
    """The artefact of `spec` from the cache; missing parts are made first, and `reporter` reports on that.

    Artefacts that `spec` needs are found or made first. Two processes that want the same artefact take turns. Raises
    `UserError` where `resources` lack images that the artefact is made from, and what `make_part` raises.
    """
    folder = _folder_of(spec, cache)
    if (artefact := _find(spec, folder)) is not None:
        return artefact
    with _locked(folder):
        if (artefact := _find(spec, folder)) is not None:
            return artefact
        store.remove_leftovers(folder)
        missing = _missing(spec, folder)
        if missing:
            sources = _sources_of(spec, resources)  # raises where images are missing, before anything is made
            needed = {
                role: get(need, resources=resources, workers=workers, cache=cache, reporter=reporter)
                for role, need in spec.needs().items()
            }
            inputs = resources
            if sources or needed or isinstance(resources, Resources):  # these alone are sent to the jobs
                inputs = Resources(sources, resources.device if isinstance(resources, Resources) else "auto", needed)
            _make_parts(spec, missing, folder, inputs, workers=workers, reporter=reporter)
        _complete(spec, folder)
    made = _find(spec, folder)
    assert made is not None
    if reporter is not None and (outcome := spec.outcome(made)):
        reporter.message(f"  {outcome}")
    return made


def complete(spec: ArtefactSpec, *, cache: Path | None = None) -> bool:
    """Whether the artefact of `spec` is in the cache, so that `get` makes nothing."""
    return _find(spec, _folder_of(spec, cache)) is not None


def missing(spec: ArtefactSpec, *, cache: Path | None = None) -> int:
    """How many parts of the artefact of `spec` are not in the cache, so that `get` would make them."""
    folder = _folder_of(spec, cache)
    return 0 if _find(spec, folder) is not None else len(_missing(spec, folder))


def _missing(spec: ArtefactSpec, folder: Path) -> list[int]:
    return [index for index in range(spec.parts()) if not _part_path(folder, index).exists()]


@surroundings.own()
def opened(folder: Path, kind: type[ArtefactSpec]) -> Artefact:
    """The complete artefact of a kind in `folder`, which may have been made elsewhere and copied.

    Raises `UserError` for anything else; what its parts hold is checked when they are read.
    """
    file = folder / "complete.json"
    with store.disk_errors(file):
        if file.stat().st_size > FACTS_BYTES:
            raise UserError(f"{file}: has more than {FACTS_BYTES:,} bytes, so dd-apps did not write it")
    facts = _facts(folder)
    if facts is None or facts.get("kind") != kind.kind:
        raise UserError(f"{folder}: is no complete {kind.kind}")
    spec = decode(kind, facts.get("spec"), where=str(file), key="spec")
    artefact = _find(spec, folder)
    if spec.digest() != facts.get("digest") or artefact is None:
        raise UserError(f"{file}: contradicts itself; make the {kind.kind} again")
    return artefact


def by_content(content: str, kind: type[ArtefactSpec], *, cache: Path | None = None) -> Artefact | None:
    """The artefact of a kind whose content has this digest, as in a set's provenance; None where the cache has none."""
    for folder in sorted(((cache or cache_folder()) / "artefacts" / kind.kind).glob("*/")):
        facts = _facts(folder)
        if facts is not None and digest(facts["parts"]) == content:
            return opened(folder, kind)
    return None


def _sources_of(spec: ArtefactSpec, resources: Any) -> dict[str, Source]:
    """The images that `spec` is made from; raises `UserError` where `resources` lack some."""
    given = resources.sources if isinstance(resources, Resources) else {}
    for fingerprint, name in spec.sources().items():
        if fingerprint not in given:
            images = f"the images of '{name}'" if name else "images"
            advice = f"; give them as {Option(spec.source_option)}" if spec.source_option else ""
            raise UserError(
                f"making {spec.kind} needs {images} with the fingerprint {fingerprint[:12]}..., not at hand{advice}"
            )
    return {fingerprint: given[fingerprint] for fingerprint in spec.sources()}


def _make_parts(
    spec: ArtefactSpec,
    missing: Sequence[int],
    folder: Path,
    inputs: Any,
    *,
    workers: Workers | None,
    reporter: Reporter | None,
) -> None:
    total, noun = spec.parts(), spec.noun or f"part of {spec.kind}"
    if reporter is not None:
        reporter.message(_plan(spec.verb, noun, missing=len(missing), total=total))
        if cost := spec.cost(inputs, len(missing)):
            reporter.message(f"  {cost}")
    workers = workers or Workers()
    # what devices a cluster has is not known here; and no worker waits while another has several parts
    most = spec.at_once(inputs, processes=workers.count) if workers.engine == "processes" else 1
    size = max(1, min(most, len(missing) // workers.count))
    jobs = [_PartsJob(spec, missing[at : at + size], folder, inputs) for at in range(0, len(missing), size)]
    with (reporter or Silent()).stage(several(noun), total=total, first=total - len(missing)) as stage:
        for job, _ in zip(jobs, parallel.run(_make, jobs, workers=workers, uses_torch=spec.uses_torch), strict=True):
            for _ in job.indices:
                stage.advance()


def _plan(verb: str, noun: str, *, missing: int, total: int) -> str:
    """One line that says how many parts are to be made, and how many the cache has already."""
    if total == 1:
        return f"{verb} 1 {noun}, which is kept for later runs"
    made = total - missing
    them = noun if missing == 1 else several(noun)
    return f"{verb} {missing}{' more' if made else ''} {them} ({made} of {total} are in the cache); kept for later runs"


def several(noun: str) -> str:
    """The plural of a spec's noun."""
    first, space, rest = noun.partition(" ")
    return f"{first}{'es' if first.endswith('ch') else 's'}{space}{rest}"


def _folder_of(spec: ArtefactSpec, cache: Path | None) -> Path:
    return (cache or cache_folder()) / "artefacts" / spec.kind / spec.digest()


def _part_path(folder: Path, index: int) -> Path:
    return folder / f"part-{index:05d}.safetensors"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with store.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _find(spec: ArtefactSpec, folder: Path) -> Artefact | None:
    facts = _facts(folder)
    if facts is None or len(facts["parts"]) < spec.parts():
        return None
    return Artefact(spec, folder, digest(facts["parts"][: spec.parts()]))


def _facts(folder: Path) -> dict[str, Any] | None:
    """The content of `complete.json`; None where the file is missing or damaged, and is made again from the parts."""
    facts: Any = None
    with suppress(UserError):
        facts = store.read_json(folder / "complete.json")
    parts = facts.get("parts") if isinstance(facts, dict) else None
    return facts if isinstance(parts, list) and all(isinstance(part, str) for part in parts) else None


@dataclass(frozen=True)
class _PartsJob:
    spec: ArtefactSpec
    indices: Sequence[int]
    folder: Path
    resources: Any


def _make(job: _PartsJob) -> None:
    indices = [index for index in job.indices if not _part_path(job.folder, index).exists()]  # a worker may have died
    progress = {index: Progress(job.folder / f"part-{index:05d}.progress") for index in indices}
    parts = job.spec.make_parts(indices, resources=job.resources, progress=progress)
    with closing(parts):
        for index, tensors, facts in parts:
            body = {"artefact": job.spec.digest(), "index": index, "facts": dict(facts)}
            store.write_container(_part_path(job.folder, index), store.ARTEFACT, tensors, body)
            progress[index].path.unlink(missing_ok=True)


def _complete(spec: ArtefactSpec, folder: Path) -> None:
    sums = [store.file_sha256(_part_path(folder, index)) for index in range(spec.parts())]
    facts = {"kind": spec.kind, "spec": plain(spec), "digest": spec.digest(), "parts": sums}
    store.write_json(folder / "complete.json", facts)
    for finished in folder.glob("*.progress"):  # of jobs that were killed after they had written their part
        finished.unlink(missing_ok=True)


# --- listing and pruning ------------------------------------------------------------------------------------


def listing(cache: Path | None = None) -> list[dict[str, Any]]:
    """Every artefact in the cache: kind, digest, whether it is complete, bytes, and its spec where complete."""
    root = (cache or cache_folder()) / "artefacts"
    rows: list[dict[str, Any]] = []
    for folder in sorted(root.glob("*/*/")):
        facts = _facts(folder)
        size = sum(file.stat().st_size for file in folder.iterdir())
        row = {"kind": folder.parent.name, "digest": folder.name, "complete": facts is not None, "bytes": size}
        rows.append({**row, "spec": (facts or {}).get("spec", {}), "folder": str(folder)})
    return rows


def prune(*, everything: bool = False, cache: Path | None = None) -> list[dict[str, Any]]:
    """Remove half-made artefacts, or all artefacts; an artefact that a process is making right now stays."""
    removed: list[dict[str, Any]] = []
    for row in listing(cache):
        if row["complete"] and not everything:
            continue
        folder = Path(row["folder"])
        with store.disk_errors(folder):
            try:
                with FileLock(folder / "lock").acquire(timeout=0):
                    shutil.rmtree(folder)
            except Timeout:
                continue
        removed.append(row)
    return removed

"""The only file that knows disk formats. numpy only: reading a set never imports torch, and nothing is pickled.

A container is one safetensors file whose metadata has the single key `manifest`: canonical JSON
`{"body": ..., "sha256": digest of body}`. The body names the kind and, for each tensor, dtype, shape and
sha256. Distilled sets, checkpoints and artefact parts are containers; they differ in `Format`.

Writing: temporary file in the same folder, fsync, `os.replace`, fsync of the folder; a reader sees the old
file or the new one. Reading checks, in this order and with bounded work: file size, header length, header
text, tensor names, digest of the body, dtypes, shapes, for a set the manifest and whether those shapes are the
ones it says; only then are tensors read, each into its own memory, and checked by checksum and for finite values.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dd_core.config import canonical, decode, digest
from dd_core.distilled import DistilledSet, Layout, Manifest, arrays_of, layout_problems
from dd_core.errors import OutOfResources, UserError
from dd_core.store.headers import DTYPES, Format, Head, Refused, parse_head
from dd_core.store.states import from_tree, to_tree
from dd_core.system import surroundings
from dd_core.whitening import Whitening

_MEBI, _GIBI = 1 << 20, 1 << 30
# safetensors' order of tensors in a file: the largest alignment first, then by name
_ORDER = ("int64", "float64", "float32", "int32", "float16", "int16", "uint8", "bool")
_LONGEST = 220  # bytes of a file name that fits into its temporary file's name, which has 255 at most
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

SET = Format(
    kind="dd-apps.set",
    names=r"images|labels|targets|zca_offset|zca_matrix",
    keys=frozenset({"manifest"}),
    file_bytes=2 * _GIBI,  # limit of a sparse file: see `read_set`
    header_bytes=1 * _MEBI,
    tensors=16,
)
# Files of the two formats below were written by this machine, for itself, and hold more: a set with the state of its
# optimiser, and the networks of a long trajectory.
CHECKPOINT = Format(
    kind="dd-apps.checkpoint",
    names=r"t\d{1,5}",
    keys=frozenset({"state", "body"}),
    file_bytes=64 * _GIBI,
    header_bytes=16 * _MEBI,
    tensors=20_000,
)
ARTEFACT = Format(
    kind="dd-apps.artefact",
    names=r"[a-z][a-z0-9_]{0,40}",
    keys=frozenset({"artefact", "index", "facts"}),
    file_bytes=64 * _GIBI,
    header_bytes=4 * _MEBI,
    tensors=4_096,
)


# --- writing -------------------------------------------------------------------------------------------------


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError in the block into a one-line `UserError` or `OutOfResources` that names `path`."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in DISK_FULL:
            raise OutOfResources(f"{path}: {reason}; nothing that was there before is lost") from error
        if error.errno == errno.EIO:
            raise OutOfResources(f"{path}: {reason}; the disk fails") from error
        raise UserError(f"{path}: {reason}") from error


_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # the file that is written, and the number of the process


def write_bytes(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Replace `path` by `data`, whole or in chunks: a reader, or a kill, finds the old bytes or the new ones.

    A symbolic link stays, as under a shell's `>`: the file that it points to is replaced.
    """
    _replace(path, [data] if isinstance(data, bytes) else data)


def _replace(path: Path, chunks: Iterable[bytes | memoryview], before: Callable[[str], None] | None = None) -> str:
    """`write_bytes` for bytes in chunks, without copying them; returns their sha256.

    before: called with the sha256 when all bytes are on the disk, and before they replace `path`.
    """
    digest_of_all = hashlib.sha256()
    with disk_errors(path):
        target = target_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{_stem(target.name)}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    digest_of_all.update(chunk)
                file.flush()
                os.fsync(file.fileno())
            if before is not None:
                before(digest_of_all.hexdigest())
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(target.parent)
    return digest_of_all.hexdigest()


def target_of(path: Path) -> Path:
    """The file that `path` means, through symbolic links; raises OSError where they lead in a circle."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def _stem(name: str) -> str:
    """The part of a temporary file's name that stands for its target: the target's name, or a digest if too long."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= _LONGEST else hashlib.sha256(encoded).hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, *, of: str | None = None, below: bool = False) -> None:
    """Delete temporary files that a killed writer left; call it under a lock.

    of: the name of the file that was being written; None: any file. below: in the folders within `folder` too.
    """
    pattern = ".*.tmp" if of is None else f".{glob.escape(_stem(of))}.*.tmp"
    for leftover in folder.rglob(pattern) if below else folder.glob(pattern):
        if _TEMPORARY.fullmatch(leftover.name):
            with disk_errors(leftover):
                leftover.unlink(missing_ok=True)


def write_container(path: Path, fmt: Format, tensors: Mapping[str, np.ndarray], body: Mapping[str, Any]) -> None:
    """Write one container; equal arguments give equal bytes. Raises `UserError` for what no reader would accept."""
    _replace(path, _chunks(fmt, tensors, body))


def container_bytes(fmt: Format, tensors: Mapping[str, np.ndarray], body: Mapping[str, Any]) -> bytes:
    """The bytes of a container."""
    return b"".join(_chunks(fmt, tensors, body))


def _chunks(fmt: Format, tensors: Mapping[str, np.ndarray], body: Mapping[str, Any]) -> list[bytes | memoryview]:
    """The bytes of a container, as `safetensors` writes them: the header, and the memory of each tensor."""
    # not `ascontiguousarray`, which turns a scalar into an array of one
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    for name, array in arrays.items():
        if not re.fullmatch(fmt.names, name) or array.dtype.name not in DTYPES.values() or not array.dtype.isnative:
            raise UserError(f"{fmt.kind}: no reader takes a tensor '{name}' of {array.dtype.str}")
    table = {name: _entry(array) for name, array in arrays.items()}
    whole = {"kind": fmt.kind, "version": fmt.version, "tensors": table, **body}
    ordered = sorted(arrays, key=lambda name: (_ORDER.index(arrays[name].dtype.name), name))
    header = _header({name: arrays[name] for name in ordered}, canonical({"body": whole, "sha256": digest(whole)}))
    if len(header) > fmt.header_bytes or len(table) > fmt.tensors:
        raise UserError(
            f"{fmt.kind}: {len(table)} tensors and a header of {len(header)} bytes are more than a reader takes"
        )
    return [len(header).to_bytes(8, "little") + header, *(_memory(arrays[name]) for name in ordered)]


def _header(arrays: Mapping[str, np.ndarray], manifest: str) -> bytes:
    """The header of a file of safetensors; written here, as the library takes no file that can be made to fail."""
    entries: dict[str, Any] = {"__metadata__": {"manifest": manifest}}
    names, end = {name: kind for kind, name in DTYPES.items()}, 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        entries[name] = {"dtype": names[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _memory(array: np.ndarray) -> bytes | memoryview:
    return array.reshape(-1).view(np.uint8).data if array.size else b""


def _entry(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": _sha256(array)}


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(_memory(array)).hexdigest()


# --- reading -------------------------------------------------------------------------------------------------


def read_container(path: Path, fmt: Format, *, mapped: bool = False) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, body) of a container, all checksums verified; raises `UserError` in one line otherwise.

    mapped: the arrays are the file, mapped into memory, so that only those parts take memory that are used.
    """
    with _opened(path, fmt) as file, _refusals(str(path), fmt):
        head = _read_head(file, fmt)
        read = _map_tensors if mapped else _read_tensors
        return read(file, head), head.body


@contextmanager
def _opened(path: Path, fmt: Format) -> Iterator[BinaryIO]:
    # without O_NONBLOCK, opening a named pipe waits for somebody to write to it
    with disk_errors(path), open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UserError(f"{path}: not a readable {fmt.kind} file: it is no regular file")
        yield file


@contextmanager
def _refusals(name: str, fmt: Format) -> Iterator[None]:
    """Every reason to refuse the file called `name`, in one line."""
    try:
        yield
    except Refused as reason:
        raise UserError(f"{name}: not a readable {fmt.kind} file: {reason}") from None
    except RecursionError:
        raise UserError(f"{name}: not a readable {fmt.kind} file: it is too deeply nested") from None
    except MemoryError:
        raise OutOfResources(f"{name}: this {fmt.kind} file does not fit into memory") from None


def _read_head(file: BinaryIO, fmt: Format) -> Head:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size > fmt.file_bytes:
        raise Refused(f"it has {size:,} bytes, and {fmt.file_bytes:,} is the limit")
    if size < 8:
        raise Refused(f"{size} bytes are too few")
    length = int.from_bytes(file.read(8), "little")
    if length > fmt.header_bytes:
        raise Refused(f"its header claims {length} bytes, and {fmt.header_bytes} is the limit")
    if length > size - 8:
        raise Refused(f"its header claims {length} bytes, and the file has {size}")
    return parse_head(file.read(length), fmt, data_bytes=size - 8 - length)


def _read_tensors(file: BinaryIO, head: Head) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for name, layout in head.layouts.items():
        array = _empty(layout)
        if array.size and file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:  # type: ignore[attr-defined]
            raise Refused(f"tensor {name} ends early")
        if _sha256(array) != head.body["tensors"][name].get("sha256"):
            raise Refused(f"the checksum of tensor {name} does not match; the file is damaged")
        array.flags.writeable = False
        tensors[name] = array
    return tensors


def _map_tensors(file: BinaryIO, head: Head) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for name, layout in head.layouts.items():
        size, start = prod(layout.shape) * np.dtype(layout.dtype).itemsize, file.tell()
        seen = hashlib.sha256()
        for at in range(0, size, _MEBI):
            seen.update(file.read(min(_MEBI, size - at)))
        if seen.hexdigest() != head.body["tensors"][name].get("sha256"):
            raise Refused(f"the checksum of tensor {name} does not match; the file is damaged")
        tensors[name] = (
            np.memmap(file, dtype=layout.dtype, mode="r", offset=start, shape=layout.shape) if size else _empty(layout)
        )
        file.seek(start + size)
    return tensors


def _empty(layout: Layout) -> np.ndarray:
    try:
        return np.empty(layout.shape, dtype=layout.dtype)
    except ValueError:  # a tensor without bytes, because one side is 0, whose other sides' product overflows
        raise Refused(f"it has a tensor of the impossible shape {layout.shape}") from None


# --- distilled sets ------------------------------------------------------------------------------------------


def set_bytes(ds: DistilledSet) -> bytes:
    """The bytes of a distilled set's file."""
    return container_bytes(SET, arrays_of(ds), {"manifest": ds.manifest.model_dump(mode="json")})


def require_set_name(path: Path) -> None:
    """Raise `UserError` for a name that is not that of a distilled set."""
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: a distilled set is a .safetensors file; try {path.name}.safetensors")


@surroundings.own()
def write_set(path: Path | str, ds: DistilledSet, *, before: Callable[[str], None] | None = None) -> str:
    """Write a distilled set of any size to `path`, a .safetensors file; returns the sha256 of the file.

    before: called with that sha256 when all bytes are on the disk, and before they replace `path`. Raises `UserError`
    for a name that does not end in .safetensors.
    """
    path = Path(path)
    require_set_name(path)
    return _replace(path, _chunks(SET, arrays_of(ds), {"manifest": ds.manifest.model_dump(mode="json")}), before)


@surroundings.own()
def read_set(path: Path | str, *, file_bytes: int | None = None) -> DistilledSet:
    """Read a distilled set of at most `file_bytes`, verified in full.

    By default a file may be of any size, but a sparse file (with holes) at most `SET.file_bytes`: it costs its sender
    nothing, and its reader the memory for all that it claims to hold. Raises `UserError` in one line for any other
    file, before the tensors are read where the header is not that of a set.
    """
    path = Path(path)
    with _opened(path, SET) as file:
        if file_bytes is None:
            file_bytes = os.fstat(file.fileno()).st_size
            if file_bytes > SET.file_bytes and _has_holes(file, file_bytes):
                raise UserError(
                    f"{path}: not a readable {SET.kind} file: it has {file_bytes:,} bytes, some of them in holes, "
                    f"which take no room on the disk, and {SET.file_bytes:,} is the limit for such a file; a copy by "
                    "`cp --sparse=never` has none"
                )
        return parse_set(file, name=str(path), file_bytes=file_bytes)


def _has_holes(file: BinaryIO, size: int) -> bool:
    """Whether a file is sparse: some of its bytes take no room on the disk; true where that cannot be told.

    `st_blocks`, the room that a file takes, does not tell: a file system may compress, or count a new file later.
    """
    try:
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) < size  # the end of a file counts as a hole
    except (OSError, AttributeError):
        return True


def parse_set(file: BinaryIO, *, name: str, file_bytes: int = SET.file_bytes) -> DistilledSet:
    """`read_set` for an open file; `name` is for the error line."""
    fmt = replace(SET, file_bytes=file_bytes)
    with _refusals(name, fmt):
        head = _read_head(file, fmt)
        manifest = decode(Manifest, head.body["manifest"], where=name, key="manifest")
        for problem in layout_problems(manifest, head.layouts):
            raise Refused(problem)
        tensors = _read_tensors(file, head)
        try:
            offset, matrix = tensors.get("zca_offset"), tensors.get("zca_matrix")
            whitening = None if offset is None or matrix is None else Whitening(offset, matrix)
            return DistilledSet(tensors["images"], tensors.get("labels"), manifest, tensors.get("targets"), whitening)
        except UserError as error:
            raise UserError(f"{name}: {error.text}") from None


def file_sha256(path: Path) -> str:
    """sha256 of a whole file."""
    with disk_errors(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- states (checkpoints) ------------------------------------------------------------------------------------


def write_state(path: Path, state: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """Write nested dictionaries, lists, tuples, scalars, numpy arrays and torch tensors as a checkpoint."""
    arrays: list[np.ndarray] = []
    tree = to_tree(state, arrays)
    tensors = {f"t{index}": array for index, array in enumerate(arrays)}
    write_container(path, CHECKPOINT, tensors, {"state": tree, "body": dict(body)})


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state, body) of a checkpoint; tensors come back as what they were."""
    tensors, whole = read_container(path, CHECKPOINT)
    try:
        state, body = from_tree(whole["state"], tensors), whole["body"]
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError):
        raise UserError(f"{path}: not a readable {CHECKPOINT.kind} file: its state cannot be rebuilt") from None
    if not isinstance(state, dict) or not isinstance(body, dict):
        raise UserError(f"{path}: not a readable {CHECKPOINT.kind} file: its state is no dictionary")
    return state, body


# --- small text files ----------------------------------------------------------------------------------------


def write_json(path: Path, value: object) -> None:
    """Write a readable JSON file atomically."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of ours; raises `UserError` where it is not one."""
    with disk_errors(path):
        text = path.read_bytes()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line."""
    with disk_errors(path), open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; a line that a kill cut short is left out."""
    records: list[dict[str, Any]] = []
    if not path.exists():
        return records
    with disk_errors(path):
        lines = path.read_text(errors="replace").splitlines()
    for line in lines:
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                records.append(record)
    return records


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a JSON-lines file with the records that `keep` accepts."""
    text = "".join(json.dumps(record) + "\n" for record in read_lines(path) if keep(record))
    write_bytes(path, text.encode())

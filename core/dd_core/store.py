"""The only file that knows disk formats. numpy only: reading a set never imports torch, and nothing is pickled.

A container is one safetensors file whose metadata has the single key `manifest`: canonical JSON
`{"body": ..., "sha256": digest of body}`. The body names the kind and, for each tensor, dtype, shape and
sha256. Distilled sets, checkpoints and artefact parts are containers; they differ in `Format`.

Writing: temporary file in the same folder, fsync, `os.replace`, fsync of the folder; a reader sees the old
file or the new one. Reading checks, in this order and with bounded work: file size, header length, header
text, tensor names, dtypes, shapes, digest of the body, and then tensor by tensor its checksum.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.numpy import save as to_safetensors

from dd_core.config import canonical, decode, digest
from dd_core.distilled import DistilledSet, Manifest
from dd_core.errors import OutOfResources, UserError

_DTYPES = {"BOOL": "bool", "U8": "uint8", "I16": "int16", "I32": "int32", "I64": "int64"} | {
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}
_MEBI = 1 << 20


@dataclass(frozen=True)
class Format:
    """One kind of container: what a reader accepts and how much work it is ready to do."""

    kind: str
    names: str
    keys: frozenset[str]
    header_bytes: int
    tensors: int
    version: int = 1


SET = Format("dd-apps.set", r"images|labels|targets", frozenset({"manifest"}), 1 * _MEBI, 16)
CHECKPOINT = Format("dd-apps.checkpoint", r"t\d{1,5}", frozenset({"state", "body"}), 16 * _MEBI, 20_000)
ARTEFACT = Format(
    "dd-apps.artefact", r"[a-z][a-z0-9_]{0,40}", frozenset({"artefact", "index", "facts"}), 4 * _MEBI, 4_096
)


# --- writing -------------------------------------------------------------------------------------------------


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk can refuse into one line that names the file."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutOfResources(f"{path}: {reason}; nothing that was there before is lost") from error
        raise UserError(f"{path}: {reason}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader, or a kill at any moment, finds the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, *, of: str | None = None) -> None:
    """Delete temporary files that a killed writer left (`of` one file, or of all); call it under a lock."""
    for leftover in folder.glob(".*.tmp" if of is None else f".{glob.escape(of)}.*.tmp"):
        with disk_errors(leftover):
            leftover.unlink(missing_ok=True)


def write_container(path: Path, fmt: Format, tensors: Mapping[str, np.ndarray], body: Mapping[str, Any]) -> None:
    """Write one container; equal arguments give equal bytes. Raises `UserError` for what no reader would accept."""
    data = container_bytes(fmt, tensors, body)
    write_bytes(path, data)


def container_bytes(fmt: Format, tensors: Mapping[str, np.ndarray], body: Mapping[str, Any]) -> bytes:
    """The bytes of a container."""
    # not `ascontiguousarray`, which turns a scalar into an array of one
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    for name, array in arrays.items():
        if not re.fullmatch(fmt.names, name) or array.dtype.name not in _DTYPES.values() or not array.dtype.isnative:
            raise UserError(f"{fmt.kind}: no reader takes a tensor '{name}' of {array.dtype.str}")
    table = {name: _entry(array) for name, array in arrays.items()}
    whole = {"kind": fmt.kind, "version": fmt.version, "tensors": table, **body}
    data = to_safetensors(arrays, metadata={"manifest": canonical({"body": whole, "sha256": digest(whole)})})
    header = int.from_bytes(data[:8], "little")
    if header > fmt.header_bytes or len(table) > fmt.tensors:
        raise UserError(f"{fmt.kind}: {len(table)} tensors and a header of {header} bytes are more than a reader takes")
    return data


def _entry(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": _sha256(array)}


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data if array.size else b"").hexdigest()


# --- reading -------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """Why a file is not what it should be; becomes a UserError that names the file."""


def read_container(path: Path, fmt: Format) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, body) of a container, all checksums verified; raises `UserError` in one line otherwise."""
    # without O_NONBLOCK, opening a named pipe waits for somebody to write to it
    with disk_errors(path), open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UserError(f"{path}: not a readable {fmt.kind} file: it is no regular file")
        return parse_container(file, fmt, name=str(path))


def parse_container(file: BinaryIO, fmt: Format, *, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`read_container` for an open file; `name` is for the error line."""
    try:
        entries, body, data_bytes = _read_header(file, fmt)
        _check_table(entries, body, data_bytes)
        return _read_tensors(file, entries, body["tensors"]), body
    except _Refused as reason:
        raise UserError(f"{name}: not a readable {fmt.kind} file: {reason}") from None
    except RecursionError:
        raise UserError(f"{name}: not a readable {fmt.kind} file: it is too deeply nested") from None
    except MemoryError:
        raise OutOfResources(f"{name}: this {fmt.kind} file does not fit into memory") from None


def _read_header(file: BinaryIO, fmt: Format) -> tuple[dict[str, Any], dict[str, Any], int]:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size < 8:
        raise _Refused(f"{size} bytes are too few")
    length = int.from_bytes(file.read(8), "little")
    if length > fmt.header_bytes:
        raise _Refused(f"its header claims {length} bytes, and {fmt.header_bytes} is the limit")
    if length > size - 8:
        raise _Refused(f"its header claims {length} bytes, and the file has {size}")
    text = file.read(length)
    header = _strict_json(text, "header")
    entries = {key: value for key, value in header.items() if key != "__metadata__"}
    if len(entries) > fmt.tensors:
        raise _Refused(f"it has {len(entries)} tensors, and {fmt.tensors} is the limit")
    for key in entries:
        if not re.fullmatch(fmt.names, key):
            raise _Refused(f"it has a tensor named {key[:40]!r}, which is not in the vocabulary")
    _check_canonical(text, header)
    return entries, _body(header.get("__metadata__"), fmt), size - 8 - length


def _strict_json(text: bytes | str, what: str) -> dict[str, Any]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is there twice")
        return found

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):  # NaN, Infinity, or 1e999, which Python reads as an infinity
            raise ValueError(f"{number[:20]} is not a finite number")
        return float(number)

    try:
        found = json.loads(text, object_pairs_hook=no_duplicates, parse_constant=finite, parse_float=finite)
    except ValueError as error:
        raise _Refused(f"its {what} is not valid JSON ({str(error)[:80]})") from None
    if not isinstance(found, dict):
        raise _Refused(f"its {what} is not a JSON object")
    return found


def _check_canonical(text: bytes, header: dict[str, Any]) -> None:
    """The header must be the very bytes that a writer makes: its padding and spaces are under no checksum."""
    compact = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    if text != compact + b" " * (-len(compact) % 8):
        raise _Refused("its header is not in canonical form")


def _body(metadata: object, fmt: Format) -> dict[str, Any]:
    if not isinstance(metadata, dict) or set(metadata) != {"manifest"} or not isinstance(metadata["manifest"], str):
        raise _Refused("it has no manifest (or more metadata than a manifest)")
    manifest = _strict_json(metadata["manifest"], "manifest")
    body = manifest.get("body")
    if set(manifest) != {"body", "sha256"} or not isinstance(body, dict):
        raise _Refused("its manifest has no body and sha256")
    if manifest["sha256"] != digest(body) or metadata["manifest"] != canonical(manifest):
        raise _Refused("its manifest does not match its own sha256")
    if body.get("kind") != fmt.kind:
        raise _Refused(f"it is a {str(body.get('kind'))[:40]!r}")
    if body.get("version") != fmt.version or body["version"] is True:
        raise _Refused(f"it has format version {str(body.get('version'))[:10]!r}, and this library reads {fmt.version}")
    if set(body) != {"kind", "version", "tensors"} | fmt.keys:
        raise _Refused(f"its manifest does not have the keys {', '.join(sorted(fmt.keys))}, or has others")
    return body


def _check_table(entries: dict[str, Any], body: dict[str, Any], data_bytes: int) -> None:
    """Header and manifest must tell the same story, and the tensors must fill the data exactly."""
    table = body.get("tensors")
    if not isinstance(table, dict) or set(table) != set(entries):
        raise _Refused("its manifest and its header name different tensors")
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: _offsets(*item)):
        begin, stop = _offsets(name, entry)
        dtype, shape = _DTYPES.get(str(entry.get("dtype"))), entry.get("shape")
        if dtype is None or not _is_shape(shape):
            raise _Refused(f"tensor {name} has dtype {str(entry.get('dtype'))[:20]!r} and shape {str(shape)[:40]!r}")
        count = 1
        for side in shape:
            count *= side
        if begin != end or stop - begin != count * np.dtype(dtype).itemsize:
            raise _Refused(f"tensor {name} lies at bytes {begin} to {stop}, which its shape contradicts")
        stated = {**table[name]} if isinstance(table[name], dict) else {}
        if canonical({**stated, "sha256": 0}) != canonical({"dtype": dtype, "shape": shape, "sha256": 0}):
            raise _Refused(f"its manifest contradicts its header about tensor {name}")
        end = stop
    if end != data_bytes:
        raise _Refused(f"its tensors take {end} bytes, and the file holds {data_bytes}")


def _offsets(name: str, entry: object) -> tuple[int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _Refused(f"tensor {name} does not have dtype, shape and data_offsets, or has more")
    offsets: Any = entry["data_offsets"]
    if not _is_shape(offsets) or len(offsets) != 2:
        raise _Refused(f"tensor {name} has no place in the file")
    return offsets[0], offsets[1]


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) <= 8 and all(type(side) is int and 0 <= side < 2**48 for side in value)
    )


def _read_tensors(file: BinaryIO, entries: dict[str, Any], table: dict[str, Any]) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for name, entry in sorted(entries.items(), key=lambda item: _offsets(*item)):
        array = _empty(entry)
        if array.size and file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:  # type: ignore[attr-defined]
            raise _Refused(f"tensor {name} ends early")
        if _sha256(array) != table[name].get("sha256"):
            raise _Refused(f"the checksum of tensor {name} does not match; the file is damaged")
        array.flags.writeable = False
        tensors[name] = array
    return tensors


def _empty(entry: dict[str, Any]) -> np.ndarray:
    try:
        return np.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
    except ValueError:  # no bytes, and sides whose product overflows
        raise _Refused(f"it has a tensor of the impossible shape {entry['shape']}") from None


# --- distilled sets ------------------------------------------------------------------------------------------


def set_bytes(ds: DistilledSet) -> bytes:
    """The bytes of a distilled set's file."""
    arrays = {"images": ds.images, "labels": ds.labels, "targets": ds.targets}
    tensors = {name: array for name, array in arrays.items() if array is not None}
    return container_bytes(SET, tensors, {"manifest": ds.manifest.model_dump(mode="json")})


def write_set(path: Path, ds: DistilledSet) -> str:
    """Write a distilled set; returns the sha256 of the file."""
    data = set_bytes(ds)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def read_set(path: Path) -> DistilledSet:
    """Read a distilled set, verified in full; raises `UserError` in one line for anything else."""
    tensors, body = read_container(path, SET)
    if "images" not in tensors:
        raise UserError(f"{path}: not a readable {SET.kind} file: it has no images")
    manifest = decode(Manifest, body.get("manifest"), where=str(path), key="manifest")
    try:
        return DistilledSet(tensors["images"], tensors.get("labels"), manifest, tensors.get("targets"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def file_sha256(path: Path) -> str:
    """sha256 of a whole file."""
    with disk_errors(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- states (checkpoints) ------------------------------------------------------------------------------------


def write_state(path: Path, state: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """Write nested dictionaries, lists, tuples, scalars, numpy arrays and torch tensors as a checkpoint."""
    arrays: list[np.ndarray] = []
    tree = _to_tree(state, arrays)
    tensors = {f"t{index}": array for index, array in enumerate(arrays)}
    write_container(path, CHECKPOINT, tensors, {"state": tree, "body": dict(body)})


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state, body) of a checkpoint; tensors come back as what they were."""
    tensors, whole = read_container(path, CHECKPOINT)
    try:
        state, body = _from_tree(whole["state"], tensors), whole["body"]
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError):
        raise UserError(f"{path}: not a readable {CHECKPOINT.kind} file: its state makes no sense") from None
    if not isinstance(state, dict) or not isinstance(body, dict):
        raise UserError(f"{path}: not a readable {CHECKPOINT.kind} file: its state is no dictionary")
    return state, body


def _to_tree(value: Any, arrays: list[np.ndarray]) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, Mapping):
        pairs = [[_to_tree(key, arrays), _to_tree(item, arrays)] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_to_tree(item, arrays) for item in value]}
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if type(value).__module__.startswith("torch") and hasattr(value, "detach"):
        arrays.append(value.detach().cpu().numpy())
        return {"tensor": len(arrays) - 1}
    raise TypeError(f"a state holds tensors and plain values, not {type(value).__name__}")


def _from_tree(tree: Any, tensors: dict[str, np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "float":
        return float.fromhex(value)
    if kind == "dict":
        return {_from_tree(key, tensors): _from_tree(item, tensors) for key, item in value}
    if kind == "array":
        return tensors[f"t{value}"]
    if kind == "tensor":
        import torch

        return torch.from_numpy(tensors[f"t{value}"].copy())
    items = [_from_tree(item, tensors) for item in value]
    return {"list": list, "tuple": tuple}[kind](items)


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

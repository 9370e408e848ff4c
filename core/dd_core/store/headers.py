"""Parse the header of a container, or give the first reason to refuse it. No file is read here.

`store.files` describes the container and reads the bytes. The text may be a stranger's: its size is limited before it
is parsed, and it is believed only where header, manifest and the number of bytes in the file agree.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dd_core.config import canonical, digest
from dd_core.distilled import Layout

DTYPES = {"BOOL": "bool", "U8": "uint8", "I16": "int16", "I32": "int32", "I64": "int64"} | {
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of container, and the limits of what a reader accepts.

    names: regular expression of tensor names. keys: the body's, beside kind, version and tensors. file_bytes,
    header_bytes: in bytes; tensors: their number. `file_bytes` is a limit of the reader, who may allow more.
    """

    kind: str
    names: str
    keys: frozenset[str]
    file_bytes: int
    header_bytes: int
    tensors: int
    version: int = 1


class Refused(Exception):
    """Why a file is not what it should be; becomes a UserError that names the file."""


class Head(NamedTuple):
    """All of a container but its tensors."""

    layouts: dict[str, Layout]  # in the order in which they lie in the file
    body: dict[str, Any]


def parse_head(text: bytes, fmt: Format, *, data_bytes: int) -> Head:
    """What the header `text` says of the `data_bytes` behind it; raises `Refused`."""
    header = _strict_json(text, "header")
    entries = {key: value for key, value in header.items() if key != "__metadata__"}
    if len(entries) > fmt.tensors:
        raise Refused(f"it has {len(entries)} tensors, and {fmt.tensors} is the limit")
    for key in entries:
        if not re.fullmatch(fmt.names, key):
            raise Refused(f"it has a tensor named {key[:40]!r}, which this kind of file does not have")
    _check_canonical(text, header)
    body = _body(header.get("__metadata__"), fmt)
    return Head(_layouts(entries, body, data_bytes), body)


def _strict_json(text: bytes | str, what: str) -> dict[str, Any]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a key is there twice")
        return table

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):  # NaN, Infinity, or 1e999, which Python reads as an infinity
            raise ValueError(f"{number[:20]} is not a finite number")
        return float(number)

    try:
        table = json.loads(text, object_pairs_hook=no_duplicates, parse_constant=finite, parse_float=finite)
    except ValueError as error:
        raise Refused(f"its {what} is not valid JSON ({str(error)[:80]})") from None
    if not isinstance(table, dict):
        raise Refused(f"its {what} is not a JSON object")
    return table


def _check_canonical(text: bytes, header: dict[str, Any]) -> None:
    """The header must be the very bytes that a writer makes: its padding and spaces are under no checksum."""
    compact = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    if text != compact + b" " * (-len(compact) % 8):
        raise Refused("its header is not in canonical form")


def _body(metadata: object, fmt: Format) -> dict[str, Any]:
    if not isinstance(metadata, dict) or set(metadata) != {"manifest"} or not isinstance(metadata["manifest"], str):
        raise Refused("it has no manifest (or more metadata than a manifest)")
    manifest = _strict_json(metadata["manifest"], "manifest")
    body = manifest.get("body")
    if set(manifest) != {"body", "sha256"} or not isinstance(body, dict):
        raise Refused("its manifest has no body and sha256")
    if manifest["sha256"] != digest(body) or metadata["manifest"] != canonical(manifest):
        raise Refused("its manifest does not match its own sha256")
    if body.get("kind") != fmt.kind:
        raise Refused(f"it is a {str(body.get('kind'))[:40]!r}")
    if body.get("version") != fmt.version or body["version"] is True:
        raise Refused(f"it has format version {str(body.get('version'))[:10]!r}, and this library reads {fmt.version}")
    if set(body) != {"kind", "version", "tensors"} | fmt.keys:
        raise Refused(f"its manifest does not have the keys {', '.join(sorted(fmt.keys))}, or has others")
    return body


def _layouts(entries: dict[str, Any], body: dict[str, Any], data_bytes: int) -> dict[str, Layout]:
    """dtype and shape of each tensor; header and manifest must agree, and the tensors must fill the data exactly."""
    layouts: dict[str, Layout] = {}
    table = body.get("tensors")
    if not isinstance(table, dict) or set(table) != set(entries):
        raise Refused("its manifest and its header name different tensors")
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: _offsets(*item)):
        begin, stop = _offsets(name, entry)
        dtype, shape = DTYPES.get(str(entry.get("dtype"))), entry.get("shape")
        if dtype is None or not _is_shape(shape):
            raise Refused(f"tensor {name} has dtype {str(entry.get('dtype'))[:20]!r} and shape {str(shape)[:40]!r}")
        count = 1
        for side in shape:
            count *= side
        if begin != end or stop - begin != count * np.dtype(dtype).itemsize:
            raise Refused(f"tensor {name} lies at bytes {begin} to {stop}, which its dtype and shape contradict")
        stated = {**table[name]} if isinstance(table[name], dict) else {}
        if canonical({**stated, "sha256": 0}) != canonical({"dtype": dtype, "shape": shape, "sha256": 0}):
            raise Refused(f"its manifest contradicts its header about tensor {name}")
        layouts[name], end = Layout(dtype, tuple(shape)), stop
    if end != data_bytes:
        raise Refused(f"its tensors take {end} bytes, and the file holds {data_bytes}")
    return layouts


def _offsets(name: str, entry: object) -> tuple[int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Refused(f"tensor {name} does not have dtype, shape and data_offsets, or has more")
    offsets: Any = entry["data_offsets"]
    if not _is_shape(offsets) or len(offsets) != 2:
        raise Refused(f"tensor {name} has no valid data_offsets")
    return offsets[0], offsets[1]


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) <= 8 and all(type(side) is int and 0 <= side < 2**48 for side in value)
    )

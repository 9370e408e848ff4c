"""Files that no reader may accept, each for one reason; made here, seeded, never stored.

`forge` writes a container the way `store` does and then lets the caller lie about anything, with all checksums
right unless the lie is about a checksum. The tests and `benchmarks/hostile.py` read the same catalogue.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dd_core import store
from dd_core.config import canonical, digest
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.recipe import Recipe
from dd_core.store.headers import DTYPES

PLACES = {"labels": (0, 32), "images": (32, 288), "targets": (288, 320)}  # where `valid_set` has its tensors

Change = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Hostile:
    """One file: what is wrong with it, its bytes, and how many tensors a reader may touch before it knows.

    A `size` makes it sparse: zeros that take no room follow the bytes.
    """

    kind: str
    name: str
    data: bytes
    tensors: int = 0
    size: int = 0

    def write(self, path: Path) -> None:
        """Put it on disk."""
        path.write_bytes(self.data)
        if self.size:
            os.truncate(path, self.size)


def valid_set() -> DistilledSet:
    """A set with all three tensors: 4 images of 2 classes, soft targets."""
    noise = np.random.default_rng(0)
    targets = noise.random((4, 2), dtype=np.float32)
    manifest = Manifest(
        classes=("cat", "dög"),
        pixels=Pixels(space="normalised", mean=(0.5,), std=(0.25,)),
        targets="probabilities",
        recipe=Recipe(network="convnet"),
    )
    images = noise.random((4, 1, 4, 4), dtype=np.float32)
    return DistilledSet(images, np.array([0, 0, 1, 1]), manifest, targets / targets.sum(1, keepdims=True))


def arrays_of(ds: DistilledSet) -> dict[str, np.ndarray]:
    """Its tensors by name."""
    assert ds.labels is not None
    assert ds.targets is not None
    return {"images": ds.images, "labels": ds.labels, "targets": ds.targets}


def pack(header: bytes | str, data: bytes = b"") -> bytes:
    """A file of this header, padded as safetensors pads it, and this data."""
    text = header if isinstance(header, bytes) else header.encode(errors="surrogatepass")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def compact(value: object) -> str:
    """JSON as safetensors writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def signed(body: object) -> str:
    """The manifest text of a body, with the right digest."""
    return canonical({"body": body, "sha256": digest(body)})


def forge(
    fmt: store.Format,
    tensors: dict[str, np.ndarray],
    rest: dict[str, Any],
    *,
    body: Change = lambda body: None,
    header: Change = lambda header: None,
    data: Callable[[bytes], bytes] = lambda data: data,
) -> bytes:
    """A container of `tensors`; `body`, `header` and `data` change their part. The body's digest is right."""
    true = store.container_bytes(fmt, tensors, rest)
    length = int.from_bytes(true[:8], "little")
    table = json.loads(true[8 : 8 + length])
    claims = json.loads(table["__metadata__"]["manifest"])["body"]
    body(claims)
    table["__metadata__"]["manifest"] = signed(claims)
    header(table)
    return pack(compact(table), data(true[8 + length :]))


def set_with(
    *,
    tensors: dict[str, np.ndarray | None] | None = None,
    manifest: Change = lambda manifest: None,
    body: Change = lambda body: None,
    header: Change = lambda header: None,
    data: Callable[[bytes], bytes] = lambda data: data,
) -> bytes:
    """The valid set, but for what is changed."""
    ds = valid_set()
    arrays = {**arrays_of(ds), **(tensors or {})}
    claims = ds.manifest.model_dump(mode="json")
    manifest(claims)
    kept = {name: array for name, array in arrays.items() if array is not None}
    return forge(store.SET, kept, {"manifest": claims}, body=body, header=header, data=data)


def catalogue(canary: Path) -> Iterator[Hostile]:
    """All of them. `canary` is a file that unpickling would create."""
    for make in (
        _cut,
        _flipped,
        _longer,
        _lengths,
        _names,
        _shapes,
        _offsets,
        _dtypes,
        _crowds,
        _metadata,
        _versions,
        _json_tricks,
        _encodings,
        _values,
        _semantics,
        _whitenings,
        _manifests,
        _other_formats,
    ):
        for name, data, tensors in make():
            yield Hostile(make.__name__.strip("_"), name, data, tensors)
    for name, data in _pickles(canary):
        yield Hostile("pickles", name, data)
    for name, data, size in _sparse():
        yield Hostile("sparse", name, data, size=size)


Found = Iterator[tuple[str, bytes, int]]  # what is wrong, the file, tensors that may be touched


def _cut() -> Found:
    whole = set_with()
    start = 8 + int.from_bytes(whole[:8], "little")
    boundaries = [start + first for first, _ in PLACES.values()]
    places = {*range(17), *range(20, start, 61), len(whole) - 1}
    places |= {place + shift for place in boundaries for shift in (-1, 0, 1)}
    for place in sorted(places):
        yield f"cut at {place}", whole[:place], 3


def _flipped() -> Found:
    whole = set_with()
    start = 8 + int.from_bytes(whole[:8], "little")
    for bit in range(64):
        yield f"length bit {bit}", _flip(whole, bit // 8, 1 << bit % 8), 3
    seen: dict[int, int] = {}
    for place in range(8, start):
        seen[whole[place]] = seen.get(whole[place], 0) + 1
        if seen[whole[place]] <= 2:  # two of every character that is there, spaces of the padding included
            yield f"header {place} {chr(whole[place])!r} bit 0", _flip(whole, place, 1), 3
            yield f"header {place} {chr(whole[place])!r} bit 5", _flip(whole, place, 32), 3
    for word in (b"F32", b"dtype", b"shape", b"data_offsets", b"__metadata__", b"manifest", b"sha256", b"body"):
        yield f"in {word.decode()}", _flip(whole, whole.index(word), 1), 3
    for name, (first, end) in PLACES.items():
        for place in (first, (first + end) // 2, end - 1):
            yield f"data of {name} at {place}", _flip(whole, start + place, 0x80), 3


def _flip(data: bytes, place: int, mask: int) -> bytes:
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


def _longer() -> Found:
    whole = set_with()
    for tail in (b"\0", b"\n", b" " * 8, b"\0" * 4096, whole):
        yield f"{len(tail)} bytes behind", whole + tail, 0
    yield "a byte before", b"\0" + whole, 0
    yield "a blank line before", b"\r\n" + whole, 0
    length = int.from_bytes(whole[:8], "little")
    padded = (length + 8).to_bytes(8, "little") + whole[8 : 8 + length] + b" " * 8 + whole[8 + length :]
    yield "more padding", padded, 0


def _lengths() -> Found:
    whole = set_with()
    rest = len(whole) - 8
    for length in (2**63, 2**64 - 1, 2**63 - 1, 2**40, 2**32, 2**31, 2**20 + 1, rest + 1, rest, 0, 1, 2, 8):
        yield f"header length {length}", length.to_bytes(8, "little") + whole[8:], 0
    yield "big-endian length", int.from_bytes(whole[:8], "little").to_bytes(8, "big") + whole[8:], 0
    yield "length alone", (16).to_bytes(8, "little"), 0
    yield "a header of spaces", pack(b" " * 4096), 0


def _names() -> Found:
    for name in (
        "../../etc/passwd",
        "/etc/passwd",
        "images/../labels",
        "C:\\images",
        "images\0",
        "images\n",
        " images",
        "",
        ".",
        "IMAGES",
        "imagesimages",
        "ｉmages",
        "__class__",
        "t0",
        "images.weight",
        "%s%n",
        "\u202eimages",
        "x" * 100_000,
    ):
        yield f"a tensor {name[:20]!r}", set_with(body=_rename_in_body(name), header=_rename(name)), 0
        if name:
            yield f"one more tensor {name[:20]!r}", set_with(header=_one_more(name)), 0


def _rename(name: str) -> Change:
    return lambda header: header.update({name: header.pop("images")})


def _rename_in_body(name: str) -> Change:
    return lambda body: body["tensors"].update({name: body["tensors"].pop("images")})


def _one_more(name: str) -> Change:
    return lambda header: header.update({name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}})


def _shapes() -> Found:
    shapes: list[object] = [
        [2**32, 2**32, 1, 1],
        [2**47, 2**47, 2**47, 2**47],
        [2**63, 1, 1, 1],
        [2**64, 1, 4, 4],
        [-4, -1, 4, 4],
        [4, -1, -4, 4],
        [4.0, 1, 4, 4],
        [4, True, 4, 4],
        ["4", 1, 4, 4],
        [[4], 1, 4, 4],
        [4, None, 4, 4],
        [4, 1, 4, 5],
        [4, 1, 4],
        [5, 1, 4, 4],
        [0, 1, 4, 4],
        [1] * 61 + [4, 4, 4],
        [1] * 50_000,
        [],
        64,
        "4,1,4,4",
        None,
        {},
        True,
        {"4": 1},
    ]
    for shape in shapes:
        header, body = _entry("images", "shape", shape), _in_table("images", "shape", shape)
        yield f"header says shape {str(shape)[:30]}", set_with(header=header), 0
        yield f"manifest says shape {str(shape)[:30]}", set_with(body=body), 0
        yield f"both say shape {str(shape)[:30]}", set_with(header=header, body=body), 0
    yield "an empty tensor of impossible sides", _empty_targets([0, 2**47, 2**47]), 0
    yield "no targets at all", _empty_targets([0, 2]), 0


def _empty_targets(shape: list[int]) -> bytes:
    none = np.empty((0, 2), np.float32)
    return set_with(
        tensors={"targets": none}, header=_entry("targets", "shape", shape), body=_in_table("targets", "shape", shape)
    )


def _entry(tensor: str, key: str, value: object) -> Change:
    return lambda header: header[tensor].update({key: value})


def _in_table(tensor: str, key: str, value: object) -> Change:
    return lambda body: body["tensors"][tensor].update({key: value})


def _offsets() -> Found:
    offsets: list[object] = [
        [288, 32],
        [32, 287],
        [32, 289],
        [31, 287],
        [33, 289],
        [-32, 288],
        [0, 256],
        [32, 2**64],
        [2**63, 2**63 + 256],
        [32, 32],
        [32.0, 288.0],
        [True, 288],
        ["32", "288"],
        [32, 288, 320],
        [32],
        [],
        None,
        32,
        "32-288",
        {"begin": 32},
        [[32], [288]],
        [288, 544],
        [320, 576],
    ]
    for value in offsets:
        yield f"images at {value}", set_with(header=_entry("images", "data_offsets", value)), 0
    yield "two tensors on one place", set_with(header=_entry("targets", "data_offsets", [0, 32])), 0
    yield "a hole", set_with(header=_shift_targets, data=lambda data: data[:288] + b"\0" * 8 + data[288:]), 0
    for key in ("dtype", "shape", "data_offsets"):
        yield f"no {key}", set_with(header=_drop("images", key)), 0
    yield "one key more", set_with(header=_entry("images", "stride", [1])), 0
    for value in (None, [], 1, "F32", [1, 2]):
        yield f"an entry {value}", set_with(header=_whole_entry(value)), 0


def _shift_targets(header: dict[str, Any]) -> None:
    header["targets"]["data_offsets"] = [296, 328]


def _drop(tensor: str, key: str) -> Change:
    return lambda header: header[tensor].pop(key)


def _whole_entry(value: object) -> Change:
    return lambda header: header.update({"images": value})


def _dtypes() -> Found:
    names: list[object] = [
        "BF16",
        "F8_E4M3",
        "I8",
        "U16",
        "C64",
        "F64",
        "I32",
        "f32",
        "",
        "F3\n2",
        "object",
        None,
        1,
        ["F32"],
    ]
    for name in names:
        yield f"dtype {name!r}", set_with(header=_entry("images", "dtype", name)), 0
    for name in ("float64", "int32", "object", "O", "F32", "", None, 7, "float32\n"):
        yield f"manifest says dtype {name!r}", set_with(body=_in_table("images", "dtype", name)), 0
    for dtype in (np.float64, np.int16, np.int32, np.int64, np.bool_):
        yield f"images of {dtype.__name__}", set_with(tensors={"images": np.ones((4, 1, 4, 4), dtype)}), 0
    for dtype in (np.int32, np.uint8, np.float32, np.bool_):
        yield f"labels of {dtype.__name__}", set_with(tensors={"labels": np.zeros(4, dtype)}), 0
    for dtype in (np.uint8, np.int64, np.float64):
        yield f"targets of {dtype.__name__}", set_with(tensors={"targets": np.ones((4, 2), dtype)}), 0


def _crowds() -> Found:
    for count in (17, 1_000, 12_000):
        table = {f"t{index}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for index in range(count)}
        yield f"{count} empty tensors", pack(compact({"__metadata__": {"manifest": signed({})}, **table})), 0
    entry = '"t%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    many = "{" + ",".join(entry % index for index in range(300_000)) + "}"
    yield "300,000 empty tensors", pack(many), 0
    yield "300,000 times the same tensor", pack("{" + ",".join([entry % 0] * 300_000) + "}"), 0


def _metadata() -> Found:
    whole = json.loads(_header_of(set_with()))
    good = whole["__metadata__"]["manifest"]
    claims = json.loads(good)
    manifests: list[tuple[str, object]] = [
        ("no metadata", None),
        ("empty metadata", {}),
        ("metadata is a list", [good]),
        ("metadata is text", good),
        ("one key more", {"manifest": good, "format": "pt"}),
        ("another key", {"Manifest": good}),
        ("manifest is no text", {"manifest": claims}),
        ("manifest is null", {"manifest": None}),
        ("manifest is empty", {"manifest": ""}),
        ("manifest is a number", {"manifest": "1"}),
        ("manifest is a list", {"manifest": "[]"}),
        ("manifest is a pickle", {"manifest": "cos\nsystem\n(S'true'\ntR."}),
        ("manifest without body", {"manifest": canonical({"sha256": digest({})})}),
        ("manifest without sha256", {"manifest": canonical({"body": claims["body"]})}),
        ("manifest with more", {"manifest": canonical({**claims, "more": 1})}),
        ("body is a list", {"manifest": signed([])}),
        ("body is null", {"manifest": signed(None)}),
        ("body is empty", {"manifest": signed({})}),
        ("wrong sha256", {"manifest": canonical({**claims, "sha256": "0" * 64})}),
        ("sha256 in capitals", {"manifest": canonical({**claims, "sha256": claims["sha256"].upper()})}),
        ("sha256 cut", {"manifest": canonical({**claims, "sha256": claims["sha256"][:32]})}),
        ("sha256 is null", {"manifest": canonical({**claims, "sha256": None})}),
        ("manifest with spaces", {"manifest": json.dumps(claims, sort_keys=True)}),
        ("manifest in another order", {"manifest": json.dumps(dict(reversed(claims.items())), separators=(",", ":"))}),
        ("manifest with a space behind", {"manifest": good + " "}),
    ]
    data = _data_of(set_with())
    for name, metadata in manifests:
        yield name, pack(compact({**whole, "__metadata__": metadata}), data), 0
    text = compact(whole)
    yield "metadata twice", pack(text[:-1] + ',"__metadata__":' + compact(whole["__metadata__"]) + "}", data), 0
    yield "images twice", pack(text[:-1] + ',"images":' + compact(whole["images"]) + "}", data), 0
    yield "dtype twice", pack(text.replace('"dtype":"F32"', '"dtype":"F32","dtype":"F32"', 1), data), 0
    yield "manifest twice", pack(text.replace('{"manifest":', '{"manifest":"x","manifest":', 1), data), 0
    twice = good.replace('{"body":', '{"body":{},"body":', 1)
    yield "body twice", pack(compact({**whole, "__metadata__": {"manifest": twice}}), data), 0
    yield "spaces in the header", pack(json.dumps(whole, ensure_ascii=False), data), 0
    yield "escapes in the header", pack(text.replace("images", "\\u0069mages", 1), data), 0
    for key in ("kind", "version", "tensors", "manifest"):
        yield f"body without {key}", set_with(body=_pop(key)), 0
    yield "body with more", set_with(body=_put("more", 1)), 0
    for value in (None, [], {}, "x", {"images": {}}, {"images": None, "labels": None, "targets": None}):
        yield f"body has tensors {value}", set_with(body=_put("tensors", value)), 0
    for value in (None, 0, "", "0" * 64, []):
        yield f"tensor sha256 {str(value)[:8]!r}", set_with(body=_in_table("images", "sha256", value)), 2
    yield "a tensor without sha256", set_with(body=lambda body: body["tensors"]["labels"].pop("sha256")), 3


def _pop(key: str) -> Change:
    return lambda table: table.pop(key)


def _put(key: str, value: object) -> Change:
    return lambda table: table.update({key: value})


def _header_of(whole: bytes) -> bytes:
    return whole[8 : 8 + int.from_bytes(whole[:8], "little")]


def _data_of(whole: bytes) -> bytes:
    return whole[8 + int.from_bytes(whole[:8], "little") :]


def _versions() -> Found:
    kinds: list[object] = [
        "dd-apps.checkpoint",
        "dd-apps.artefact",
        "dd-apps.Set",
        "",
        None,
        1,
        ["dd-apps.set"],
        "x\ny" * 50,
    ]
    for kind in kinds:
        yield f"kind {str(kind)[:20]!r}", set_with(body=_put("kind", kind)), 0
    versions: list[object] = [0, 2, -1, 10**30, "1", True, None, [1], "1\n2", 1.5]
    for version in versions:
        yield f"version {version!r}", set_with(body=_put("version", version)), 0
    yield (
        "a checkpoint",
        store.container_bytes(store.CHECKPOINT, {"t0": np.ones(3)}, {"state": {"array": 0}, "body": {}}),
        0,
    )
    part = {"artefact": "x", "index": 0, "facts": {}}
    yield "an artefact's part", store.container_bytes(store.ARTEFACT, {"images": np.ones((1, 1, 2, 2))}, part), 0


def _json_tricks() -> Found:
    good = set_with()
    table = json.loads(_header_of(good))
    data = _data_of(good)
    deep = [("list", "[", "]"), ("dict", '{"a":', "}")]
    for name, opening, closing in deep:
        for depth in (900, 990, 5_000, 100_000):
            nest = opening * depth + "1" + closing * depth
            yield f"header is a {name} {depth} deep", pack(nest), 0
            yield f"images is a {name} {depth} deep", pack('{"images":' + nest + "}"), 0
            text = '{"body":' + nest + ',"sha256":"x"}'
            yield (
                f"body is a {name} {depth} deep",
                pack(compact({**table, "__metadata__": {"manifest": text}}), data),
                0,
            )
    for depth in (100, 300, 900):
        nested: object = 1
        for _ in range(depth):
            nested = [nested]
        yield f"classes nested {depth} deep", set_with(manifest=_put("classes", nested)), 0
    for number in (
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "-Infinity",
        "9" * 5_000,
        "1" + "0" * 4_200,
        "1E400",
        "-0",
        "01",
    ):
        for true, lie in (('"version":1', f'"version":{number}'), ('"shape":[4,', f'"shape":[{number},')):
            text = table["__metadata__"]["manifest"].replace(true, lie)
            manifest = compact({**table, "__metadata__": {"manifest": text}})
            yield f"manifest: {lie[:18]}", pack(manifest, data), 0
        header = compact(table).replace('"shape":[4,', f'"shape":[{number},', 1)
        yield f"header: shape is {number[:9]}", pack(header, data), 0
    for header in (
        "null",
        "1",
        '"x"',
        "[]",
        "[{}]",
        "true",
        "{}",
        "{",
        "}",
        "{}{}",
        "{,}",
        "{'images':1}",
        "{//x\n}",
        "\0",
    ):
        yield f"header is {header!r}", pack(header), 0


def _encodings() -> Found:
    good = set_with()
    text, data = _header_of(good).decode(), _data_of(good)
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7"):
        yield f"header in {encoding}", pack(text.encode(encoding), data), 0
    header = _header_of(good)
    for junk in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\x80", b"\0"):
        yield f"bytes {junk!r} in a name", pack(header.replace(b"images", b"im" + junk + b"ages", 1), data), 0
        yield f"bytes {junk!r} in the manifest", pack(header.replace(b"convnet", b"conv" + junk, 1), data), 0
    yield "lone surrogate in a name", pack(text.replace('"images"', '"\\ud800"', 1), data), 0
    yield "lone surrogate as a class", set_with(manifest=_put("classes", ["\ud800", "b"])), 0


Layouts = dict[str, tuple[str, list[int]]]


def hollow(layouts: Layouts, manifest: Change = lambda manifest: None) -> tuple[bytes, int]:
    """(bytes, size) of a file whose tensors are one hole. Header and manifest agree; the checksums are not right."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in layouts.items():
        begin, end = end, end + math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    claims = valid_set().manifest.model_dump(mode="json")
    manifest(claims)
    table = {
        name: {"dtype": DTYPES[dtype], "shape": shape, "sha256": "0" * 64} for name, (dtype, shape) in layouts.items()
    }
    body = {"kind": store.SET.kind, "version": 1, "manifest": claims, "tensors": table}
    head = pack(compact({"__metadata__": {"manifest": signed(body)}, **header}))
    return head, len(head) + end


GIBI = 1 << 30


def _whitened(manifest: dict[str, Any]) -> None:
    manifest["pixels"] = {"space": "whitened", "mean": [0.0], "std": [1.0]}


def _sparse() -> Iterator[tuple[str, bytes, int]]:
    def tensors(count: int, *, side: int = 1024, **others: tuple[str, list[int]]) -> Layouts:
        images = ("F32", [count, 1, side, side])
        return {"labels": ("I64", [count]), "images": images, "targets": ("F32", [count, 2]), **others}

    for gibi in (2, 6, 64, 1024):  # 2 GiB of pixels and a header are above the limit
        yield f"{gibi} GiB that agree with themselves", *hollow(tensors(gibi * 256))
    lies: dict[str, tuple[str, list[int]]] = {
        "three dimensions": ("F32", [400, 1024, 1024]),
        "three channels": ("F32", [100, 3, 1024, 1024]),
        "other labels": ("F32", [401, 1, 1024, 1024]),
        "float64": ("F64", [200, 1, 1024, 1024]),
        "int64": ("I64", [200, 1, 1024, 1024]),
        "uint8 that is normalised": ("U8", [400, 1, 2048, 1024]),
    }
    for name, images in lies.items():
        yield f"images: {name}", *hollow(tensors(400, images=images))
    square = ("F32", [16384, 16384])
    yield (
        "a whitening of 1 GiB",
        *hollow(tensors(4, side=128, zca_offset=("F32", [16384]), zca_matrix=square), _whitened),
    )
    yield (
        "a whitening of other images",
        *hollow(tensors(4, side=4, zca_offset=("F32", [16]), zca_matrix=square), _whitened),
    )
    yield "200 million labels", *hollow(tensors(4, labels=("I64", [200_000_000])))
    yield "labels of two dimensions", *hollow(tensors(4, labels=("I64", [4, 50_000_000])))
    yield "labels of bytes", *hollow(tensors(4, labels=("U8", [1_500_000_000])))
    yield "100 million targets for an image", *hollow(tensors(4, targets=("F32", [4, 100_000_000])))
    yield "targets that the manifest does not know", *hollow(tensors(400), _put("targets", "none"))
    yield "a manifest with an unknown key", *hollow(tensors(400), _put("clases", []))
    yield "no images", *hollow({"labels": ("I64", [200_000_000])})
    yield "a hole behind a good set", set_with(), GIBI
    yield "a hole with a length", (1 << 20).to_bytes(8, "little"), GIBI
    yield "a hole", b"", GIBI


def _values() -> Found:
    for dtype in (np.float32, np.float16):
        for value in (np.nan, np.inf, -np.inf):
            images, targets = np.zeros((4, 1, 4, 4), dtype), np.ones((4, 2), dtype)
            images[3, 0, 3, 3] = targets[3, 1] = value
            yield f"{dtype.__name__} images with {value}", set_with(tensors={"images": images}), 3
            yield f"{dtype.__name__} targets with {value}", set_with(tensors={"targets": targets}), 3
    for bad in ([0, 0, 1, 2], [-1, 0, 1, 1], [0, 0, 0, 2**62], [-(2**63), 0, 0, 0]):
        yield f"labels {bad}", set_with(tensors={"labels": np.array(bad, np.int64)}), 3
    for shape in ((3,), (5,), (4, 1), (1, 4), (0,), ()):
        yield f"labels of shape {shape}", set_with(tensors={"labels": np.zeros(shape, np.int64)}), 0


def _semantics() -> Found:
    for shape in (
        (4, 4, 4),
        (4, 1, 4, 4, 1),
        (64,),
        (),
        (0, 1, 4, 4),
        (4, 0, 4, 4),
        (4, 1, 0, 4),
        (4, 3, 4, 4),
        (3, 1, 4, 4),
    ):
        yield f"images of shape {shape}", set_with(tensors={"images": np.zeros(shape, np.float32)}), 0
    for shape in ((4,), (4, 3), (4, 1), (3, 2), (4, 2, 1), (0, 2), (2, 4), ()):
        yield f"targets of shape {shape}", set_with(tensors={"targets": np.zeros(shape, np.float32)}), 0
    for name in ("images", "labels", "targets"):
        yield f"no {name}", set_with(tensors={name: None}), 0
    yield "no tensor at all", set_with(tensors={"images": None, "labels": None, "targets": None}), 0
    yield "normalised uint8", set_with(tensors={"images": np.zeros((4, 1, 4, 4), np.uint8)}), 0
    for kind in ("none", "features?", "Logits"):
        yield f"targets are {kind}", set_with(manifest=_put("targets", kind)), 0
    for mean, std in (((0.5,) * 3, (0.5,) * 3), ((0.5,), (0.5, 0.5)), ((), ()), ((0.5,), (0.0,)), ((0.5,), (-1.0,))):
        yield f"mean {mean} std {std}", set_with(manifest=_pixels(mean=list(mean), std=list(std))), 0
    for space in ("Raw", "", None, 1, "rgb"):
        yield f"space {space!r}", set_with(manifest=_pixels(space=space)), 0
    for values in (["0.5"], [True], [None], 0.5, "0.5", [[0.5]]):
        yield f"mean is {values!r}", set_with(manifest=_pixels(mean=values)), 0


def whitened_with(
    *,
    tensors: dict[str, np.ndarray | None] | None = None,
    manifest: Change = lambda manifest: None,
    body: Change = lambda body: None,
) -> bytes:
    """The valid set, whitened, but for what is changed: 16 numbers in an image, which the whitening doubles."""

    def whitened(claims: dict[str, Any]) -> None:
        _whitened(claims)
        manifest(claims)

    whitening = {"zca_offset": np.full(16, 0.5, np.float32), "zca_matrix": 2 * np.eye(16, dtype=np.float32)}
    return set_with(tensors={**whitening, **(tensors or {})}, manifest=whitened, body=body)


def _whitenings() -> Found:
    for names in (("zca_offset",), ("zca_matrix",), ("zca_offset", "zca_matrix")):
        yield f"no {' and no '.join(names)}", whitened_with(tensors=dict.fromkeys(names)), 0
    for space, mean, std in (
        ("normalised", 0.0, 1.0),
        ("raw", 0.5, 0.25),
        ("raw", 0.0, 0.5),
        ("whitened", 0.5, 1.0),
        ("whitened", 0.0, 2.0),
        ("Whitened", 0.0, 1.0),
    ):
        claim = _pixels(space=space, mean=[mean], std=[std])
        yield f"whitened as {space}, mean {mean}, std {std}", whitened_with(manifest=claim), 0
    for shape in ((15,), (17,), (1, 16), (16, 1), (), (0,)):
        yield f"offset of shape {shape}", whitened_with(tensors={"zca_offset": np.zeros(shape, np.float32)}), 0
    for shape in ((16,), (15, 15), (16, 17), (17, 16), (256,), (4, 4, 4, 4), (1, 16, 16), ()):
        yield f"matrix of shape {shape}", whitened_with(tensors={"zca_matrix": np.ones(shape, np.float32)}), 0
    for dtype in (np.float64, np.float16, np.int32, np.uint8):
        yield f"offset of {dtype.__name__}", whitened_with(tensors={"zca_offset": np.zeros(16, dtype)}), 0
        yield f"matrix of {dtype.__name__}", whitened_with(tensors={"zca_matrix": np.eye(16).astype(dtype)}), 0
    good = np.eye(16, dtype=np.float32)
    spoilt = good.copy()
    for value in (np.nan, np.inf, 1e30):
        yield f"offset with {value}", whitened_with(tensors={"zca_offset": np.full(16, value, np.float32)}), 5
        spoilt[3, 3] = value
        yield f"matrix with {value}", whitened_with(tensors={"zca_matrix": spoilt.copy()}), 5
    leaning, flat, tiny = good.copy(), np.ones((16, 16), np.float32), good * np.float32(1e-40)
    leaning[0, 1] = 0.5
    for name, matrix in {"not symmetric": leaning, "singular": flat, "zero": 0 * good, "tiny": tiny}.items():
        yield f"a matrix that is {name}", whitened_with(tensors={"zca_matrix": matrix}), 5
    yield "a negative matrix", whitened_with(tensors={"zca_matrix": -good}), 5
    yield "whitened bytes", whitened_with(tensors={"images": np.zeros((4, 1, 4, 4), np.uint8)}), 0
    for tensor in ("zca_offset", "zca_matrix"):
        yield f"a wrong sha256 of {tensor}", whitened_with(body=_in_table(tensor, "sha256", "0" * 64)), 5
    whole = whitened_with()
    for back in (1, 64, 16 * 16 * 4):
        yield f"whitened, bit flipped {back} from the end", _flip(whole, len(whole) - back, 0x80), 5
    pretraining = {"distribution": "default", "count": 1, "pretraining": {}}
    recipe = {"network": "convnet", "initialisation": "pretrained", "weights": pretraining}
    yield "whitened for pre-trained networks", whitened_with(manifest=_put("recipe", recipe)), 0


def _pixels(**changes: object) -> Change:
    return lambda manifest: manifest["pixels"].update(changes)


def _manifests() -> Found:
    whole = valid_set().manifest.model_dump(mode="json")
    for value in (None, [], "x", 1, {}):
        yield f"manifest is {value!r}", set_with(body=_put("manifest", value)), 0
    for key in ("classes", "pixels", "recipe"):
        yield f"manifest without {key}", set_with(manifest=_pop(key)), 0
    for key in ("clases", "evil\nkey", "\x1b[31mred", "a" * 500_000, "__class__", "", "\u2028"):
        yield f"manifest with {key[:12]!r}", set_with(manifest=_put(key, 1)), 0
    for key in whole:
        for value in (7, "\n", [{"x": "\n"}], {"a\nb": 1}, "y" * 300_000):
            yield f"manifest.{key} is {str(value)[:12]!r}", set_with(manifest=_put(key, value)), 0
    recipe: list[tuple[str, object]] = [
        ("learning_rate", 0.0),
        ("learning_rate", -1),
        ("learning_rate", "1"),
        ("learning_rate", True),
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", None),
        ("batch_size", -(10**30)),
        ("momentum", 1.0),
        ("optimiser", "adam\n"),
        ("network", None),
        ("steps", [{"epoch": 0}]),
        ("steps", "x"),
        ("lr\nimg", 1),
        ("eval", "__import__('os')"),
    ]
    for key, value in recipe:
        yield f"recipe.{key.strip()} is {value!r}", set_with(manifest=_in_recipe(key, value)), 0


def _in_recipe(key: str, value: object) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        manifest["recipe"] = {**deepcopy(manifest["recipe"]), key: value}

    return change


def _other_formats() -> Found:
    images = valid_set().images
    for name, save in (("npy", np.save), ("npz", np.savez), ("npz compressed", np.savez_compressed)):
        buffer = io.BytesIO()
        save(buffer, images)
        yield name, buffer.getvalue(), 0
    yield "gzip", gzip.compress(set_with(), mtime=0), 0
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("images"))
    yield "tar", buffer.getvalue(), 0
    for name, head in (
        ("png", b"\x89PNG\r\n\x1a\n"),
        ("jpeg", b"\xff\xd8\xff\xe0\x00\x10JFIF"),
        ("elf", b"\x7fELF\x02\x01\x01"),
        ("hdf5", b"\x89HDF\r\n\x1a\n"),
        ("gguf", b"GGUF\x03\0\0\0"),
        ("html", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
        ("git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n"),
        ("toml", b"[method]\nname = 'dm'\n"),
        ("shell", b"#!/bin/sh\ntouch canary\n"),
    ):
        yield name, head + bytes(1000), 0
    for size in (0, 1, 7, 8, 9, 16, 1 << 20):
        yield f"{size} zeros", bytes(size), 0
        yield f"{size} ones", b"\xff" * size, 0
        yield f"{size} random bytes", random.Random(size).randbytes(size), 0


class Canary:
    """Unpickling one creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, int]]:
        return os.open, (self.path, os.O_CREAT | os.O_WRONLY)


def _pickles(canary: Path) -> Iterator[tuple[str, bytes]]:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        trap = pickle.dumps({"images": Canary(canary)}, protocol=protocol)
        yield f"pickle protocol {protocol}", trap
        yield f"pickle protocol {protocol} behind a length", len(trap).to_bytes(8, "little") + trap
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:  # what torch.save writes
            archive.writestr("archive/data.pkl", trap)
            archive.writestr("archive/version", "3\n")
        yield f".pt with pickle protocol {protocol}", buffer.getvalue()
        yield f"a set with pickle protocol {protocol} behind", set_with() + trap
    trap = pickle.dumps(Canary(canary), protocol=0).decode("latin-1")
    yield "a manifest that is a pickle", pack(compact({"__metadata__": {"manifest": trap}}))
    array = np.empty(1, object)
    array[0] = Canary(canary)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    yield "npy with a pickle", buffer.getvalue()

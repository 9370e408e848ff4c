"""Structured fuzzing: files of every kind that is read, each with one or a few seeded changes of what is in it.

Keys, offsets, shapes, numbers, texts, bytes and ends are changed, with checksums left alone or made right again. The
same (kind, number) gives the same files. What a reader may do with them: refuse in one line, or read what the file
says; see `outcome`.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import shutil
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from hostile_files import Canary, pack, signed, valid_set
from PIL import Image

from dd_core import artefacts, exchange, store
from dd_core.augment.view_config import Views
from dd_core.distilled import DistilledSet, Pixels
from dd_core.errors import DDError
from dd_core.store.headers import DTYPES
from dd_core.training.bank import BankSpec, opened_bank, stacked
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec

PEAK_BYTES = 48 << 20  # of Python's and numpy's memory, for files of some thousand bytes
Content = Mapping[str, Any]

# --- the files, and what reads them ---------------------------------------------------------------------------


class Squares(artefacts.ArtefactSpec):
    """Two parts that are quickly made."""

    kind: ClassVar[str] = "squares"
    uses_torch: ClassVar[bool] = False
    side: int

    def parts(self) -> int:
        return 2

    def make_part(self, index: int, *, resources: Any, progress: artefacts.Progress):
        return {"square": np.full((self.side, self.side), index, np.float32)}, {"index": index}


@dataclass(frozen=True)
class Kind:
    """How files are written into a folder, and read from it as arrays and values."""

    write: Callable[[Path], object]
    read: Callable[[Path], Content]


def _of_set(ds: DistilledSet) -> Content:
    return {"images": ds.images, "labels": ds.labels, "targets": ds.targets, "manifest": ds.manifest.model_dump_json()}


def _write_state(folder: Path) -> None:
    state = {"step": 3, "pixels": torch.arange(12.0).view(3, 4), "nested": [1, (2.5, None), {"name": "é", "on": True}]}
    store.write_state(folder / "a.safetensors", state, {"step": 3, "artefacts": ["a", "b"]})


def _read_state(folder: Path) -> Content:
    state, body = store.read_state(folder / "a.safetensors")
    pixels = state.pop("pixels", None)
    return {"pixels": pixels.numpy() if isinstance(pixels, torch.Tensor) else pixels, "rest": repr((state, body))}


def _write_squares(folder: Path) -> None:
    made = artefacts.get(Squares(side=3), cache=folder / "cache")
    shutil.copytree(made.folder, folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "cache")


def _read_squares(folder: Path) -> Content:
    artefact = artefacts.opened(folder, Squares)
    return {f"{index} {name}": array for index in range(2) for name, array in artefact.part(index)[0].items()}


def bank_spec() -> BankSpec:
    """Of two epochs of four images of two classes."""
    teacher = TeacherSpec(
        **{"source": "0" * 64, "source_name": "noise", "image_shape": (1, 4, 4), "classes": 2},
        teacher=TeacherConfig(network="convnet-1-w4-batchnorm"),
    )
    return BankSpec(
        **{"set_digest": valid_set().digest(), "images": 4, "image_size": (4, 4), "classes": 2, "epochs": 2},
        **{"teacher": teacher, "mode": "eval", "views": Views(mix="cutmix")},
    )


def _write_bank(folder: Path) -> None:
    spec, draw = bank_spec(), np.random.default_rng(0)
    records = [spec.draw(epoch) for epoch in range(spec.epochs)]
    tensors = {**stacked(records), "logits": draw.normal(size=(2, 4, 2)).astype(np.float16)}
    body = {"artefact": spec.digest(), "index": 0, "facts": {}}
    store.write_container(folder / "part-00000.safetensors", store.ARTEFACT, tensors, body)
    sums = [store.file_sha256(folder / "part-00000.safetensors")]
    facts = {"kind": spec.kind, "spec": spec.model_dump(mode="json"), "digest": spec.digest(), "parts": sums}
    store.write_json(folder / "complete.json", facts)


def _read_bank(folder: Path) -> Content:
    bank = opened_bank(folder)
    content: dict[str, Any] = {}
    for epoch in range(2):
        records = bank.records(epoch)
        content |= {f"{epoch} {name}": getattr(records, name).numpy() for name in ("boxes", "flips", "partners")}
        content[f"{epoch} logits"] = bank.logits(epoch).numpy()
    return content


def _write_folders(folder: Path) -> None:
    for name in ("new000", "new001"):
        (folder / name).mkdir()
        pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name / "0.jpg")


COLOURS = Pixels(space="normalised", mean=(0.5,) * 3, std=(0.25,) * 3)
KINDS: dict[str, Kind] = {
    "set": Kind(
        lambda folder: store.write_set(folder / "a.safetensors", valid_set()),
        lambda folder: _of_set(store.read_set(folder / "a.safetensors")),
    ),
    "checkpoint": Kind(_write_state, _read_state),
    "artefact": Kind(_write_squares, _read_squares),
    "bank": Kind(_write_bank, _read_bank),
    "import mtt": Kind(
        lambda folder: exchange.EXPORTS["mtt"](hard(valid_set()), folder).write(),
        lambda folder: _of_set(exchange.import_mtt(exchange.MttFiles.of(folder))),
    ),
    "import sre2l": Kind(
        _write_folders,
        lambda folder: _of_set(exchange.import_sre2l(folder, pixels=COLOURS, classes=("a", "b"))),
    ),
    "import weights": Kind(
        lambda folder: torch.save(torch.nn.Linear(3, 2).state_dict(), folder / "w.pth"),
        lambda folder: {name: each.numpy() for name, each in exchange.read_weights(folder / "w.pth").items()},
    ),
}


def hard(ds: DistilledSet) -> DistilledSet:
    """The set without its soft labels."""
    return DistilledSet(ds.images, ds.labels, ds.manifest.model_copy(update={"targets": "none"}))


# --- changes ---------------------------------------------------------------------------------------------------

_DEEP = "@deep@"  # stands for lists in lists, which Python itself cannot write
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 7, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "none", "\ud800", "\u202e\u0000", "é" * 9, "../../x", "x" * 70_000, [], {}, [0], [2**40, 2**40], {"": {}}),
    _DEEP,
)


def change_tree(tree: Any, draw: random.Random) -> Any:
    """A JSON value with one place changed: a key lost, doubled or renamed, a value replaced or exchanged."""
    places: list[tuple[Any, Any]] = []

    def visit(value: Any) -> None:
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in entries:
            places.append((value, key))
            visit(inner)

    visit(tree)
    if not places:
        return deepcopy(draw.choice(VALUES))
    holder, key = draw.choice(places)
    match draw.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw.choice(["x", key + " ", key.upper(), "", "\ud800"])] = holder[key]
        case 2:
            other, elsewhere = draw.choice(places)
            there = elsewhere in other if isinstance(other, dict) else elsewhere < len(other)
            holder[key] = deepcopy(other[elsewhere]) if there else 0
        case 3 if isinstance(holder[key], int) and not isinstance(holder[key], bool):
            holder[key] += draw.choice([-8, -1, 1, 8, 2**32])
        case _:
            holder[key] = deepcopy(draw.choice(VALUES))
    return tree


def change_json(data: bytes, draw: random.Random) -> bytes:
    """A JSON file with some places changed."""
    tree = json.loads(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        tree = change_tree(tree, draw)
    return _text(tree)


def _text(tree: Any) -> bytes:
    text = json.dumps(tree, separators=(",", ":"), ensure_ascii=False)
    return text.replace(f'"{_DEEP}"', "[" * 3000 + "]" * 3000).encode(errors="surrogatepass")


def change_container(data: bytes, draw: random.Random) -> bytes:
    """A container with its header, its signed body or its values changed."""
    length = int.from_bytes(data[:8], "little")
    header, values = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    manifest = json.loads(header["__metadata__"]["manifest"])
    match draw.randrange(5):
        case 0:  # the table of safetensors, and all around the manifest
            header = change_tree(header, draw)
        case 1:  # the body, with its digest left as it was
            manifest["body"] = change_tree(manifest["body"], draw)
            header["__metadata__"]["manifest"] = _text(manifest).decode(errors="surrogatepass")
        case 2:  # the body, with a right digest, which anybody can compute
            header["__metadata__"]["manifest"] = _signed(change_tree(manifest["body"], draw))
        case 3:  # values, with the right checksum of their tensor
            place = draw.randrange(len(values))
            values[place] ^= draw.randrange(1, 256)
            table = manifest["body"]["tensors"]
            for name, entry in header.items():
                if name != "__metadata__":
                    begin, end = entry["data_offsets"]
                    table[name]["sha256"] = hashlib.sha256(values[begin:end]).hexdigest()
            header["__metadata__"]["manifest"] = _signed(manifest["body"])
        case _:  # another type or shape of a tensor, in both tables
            name = draw.choice([name for name in header if name != "__metadata__"])
            shape = draw.choice(
                [[], [0], [1], [-1], [2**40, 2**40], [*header[name]["shape"], 1], header[name]["shape"][::-1]]
            )
            kind = draw.choice([*DTYPES, "BF16", "x"])
            header[name] |= {"shape": shape, "dtype": kind}
            manifest["body"]["tensors"][name] |= {"shape": shape, "dtype": DTYPES.get(kind, kind)}
            header["__metadata__"]["manifest"] = _signed(manifest["body"])
    return pack(_text(header), bytes(values))


def _signed(body: Any) -> str:
    try:
        return signed(body)
    except (ValueError, RecursionError):  # no canonical text: NaN, say
        return _text({"body": body, "sha256": "0" * 64}).decode(errors="surrogatepass")


def change_archive(data: bytes, draw: random.Random, canary: Path) -> bytes:
    """An archive of torch's with a record or the pickle in it changed, and right checksums of the archive's."""
    buffer, trap = io.BytesIO(), pickle.dumps(Canary(canary), protocol=2)
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        records = [(name, old.read(name)) for name in old.namelist()]
    index = draw.randrange(len(records))
    name, content = records[index]
    match draw.randrange(6):
        case 0:
            records[index] = (name, change_bytes(content or b"0", draw))
        case 1:
            records[index] = (draw.choice([name + "x", "../" + name, name.upper(), "archive/data/9", "é"]), content)
        case 2:
            del records[index]
        case 3:
            records.append((name, content[::-1]))
        case 4:  # code where the pickle was, before it or within it
            at = draw.choice([0, len(content) // 2, len(content)])
            swapped = [
                (n, draw.choice([trap, trap[:-1] + c, c[:at] + trap + c[at:]])) for n, c in records if n[-4:] == ".pkl"
            ]
            records = [*swapped, *((n, c) for n, c in records if n[-4:] != ".pkl")]
        case _:  # numbers and opcodes of the pickle
            records = [(n, change_bytes(c, draw) if n.endswith(".pkl") else c) for n, c in records]
    form = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", form) as new:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in records:
            new.writestr(name, content)
    return buffer.getvalue()


def change_bytes(data: bytes, draw: random.Random) -> bytes:
    """Bits flipped, pieces lost, doubled, moved, zeroed, the end cut off or grown."""
    first, second = sorted(draw.choices(range(len(data) + 1), k=2))
    second = min(second, first + draw.choice([1, 2, 8, 64, 4096]))
    piece, place = data[first:second], draw.randrange(len(data) + 1)
    flipped = bytes(byte ^ (1 << draw.randrange(8)) for byte in piece)
    return draw.choice(
        [
            data[:first] + flipped + data[second:],
            data[:first] + data[second:],
            data[:place] + piece + data[place:],
            data[:first] + bytes(len(piece)) + data[second:],
            data[:first] + b"\xff" * len(piece) + data[second:],
            data[:place],
            data + draw.choice([b"\0", b"PK\x05\x06", data]),
            b"",
        ]
    )


# --- one file --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a changed file: `refused`, `read`, or what should not be, and the peak of memory in bytes."""

    verdict: str
    line: str
    peak: int


def outcome(kind: str, number: int, folder: Path, canary: Path, pristine: Content) -> Outcome:
    """Change a file of `folder`, where a good one of the kind is, read it, and put the good one back.

    `pristine` is what the good ones hold. Bytes that were changed without a right checksum may be refused, or be of no
    account; what a file says with right checksums may be read.
    """
    draw = random.Random(f"{kind} {number}")
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock"))
    data = path.read_bytes()
    structured = draw.random() < 0.75 and path.suffix != ".jpg"
    if not structured:
        changed = change_bytes(data, draw)
    elif path.suffix == ".safetensors":
        changed = change_container(data, draw)
    elif path.suffix == ".json":
        changed = change_json(data, draw)
    else:
        changed = change_archive(data, draw, canary)
    path.write_bytes(changed)
    guarded = not structured and path.suffix in (".safetensors", ".pt", ".pth")
    tracemalloc.start()
    try:
        content = KINDS[kind].read(folder)
        true = same(content, pristine) if guarded else kind != "set" or says(changed, content)
        verdict = "read" if true else "differs"
        line = ""
    except DDError as error:
        line = str(error)
        verdict = "refused" if "\n" not in line and line.isprintable() else "no line"
    except Exception as error:
        verdict, line = "traceback", f"{type(error).__name__}: {error}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        path.write_bytes(data)
    if canary.exists():
        verdict = "executed"
    return Outcome("too much memory" if verdict in ("read", "refused") and peak > PEAK_BYTES else verdict, line, peak)


def says(data: bytes, content: Content) -> bool:
    """Whether the arrays of a set are the bytes that the header of its file points to."""
    length = int.from_bytes(data[:8], "little")
    header, values = json.loads(data[8 : 8 + length]), data[8 + length :]
    arrays = {name: array.tobytes() for name, array in content.items() if isinstance(array, np.ndarray)}
    places = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return arrays == {name: values[begin:end] for name, (begin, end) in places.items()}


def same(first: Content, second: Content) -> bool:
    """Whether two contents are the same to the bit."""
    return first.keys() == second.keys() and all(_bits(first[name]) == _bits(second[name]) for name in first)


def _bits(value: Any) -> object:
    return (value.dtype, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value

"""Files of `torch.save` that other people's code wrote; no other module reads a pickle.

`torch.load(weights_only=True)` runs no code, but a small file may still claim huge tensors. So its records, the names
in its pickle and the sizes that it claims are checked first, and nothing but tensors in plain containers is ever made.
"""

from __future__ import annotations

import mmap
import pickletools
import re
import zipfile
from collections.abc import Mapping
from io import BufferedReader, BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dd_core import store
from dd_core.errors import UserError
from dd_core.exchange.formats import read_bytes
from dd_core.store.headers import Refused


class Bounds(NamedTuple):
    """What a file of `torch.save` holds, in words, and the most records and bytes of a pickle that it may have."""

    noun: str
    records: int
    pickle_bytes: int


_FILE_BYTES = store.SET.file_bytes // 2  # so that images with their logits fit into the file of a set
_TENSOR = Bounds("a tensor", 16, 4096)  # torch.save writes seven records for it, and a pickle of some two hundred bytes
_NETWORK = Bounds("a network's state_dict", 20_000, 16 << 20)
# of the format that torch.save wrote before 1.6: five pickles (the first one is this number), then each tensor's values
_OLD_MAGIC, _OLD_PICKLES = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", 5
_KINDS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in _KINDS),
}
_SHAPES = {0: "()", 1: "(N,)", 2: "(N, K)", 4: "(N, C, H, W)"}


def tensor_bytes(array: np.ndarray | np.generic) -> bytes:
    """The bytes of a file that holds `array` as a plain tensor."""
    buffer = BytesIO()
    torch.save(torch.tensor(array), buffer)
    return buffer.getvalue()


def read_tensor(path: Path, *dtypes: str, dims: int, advice: str = "") -> np.ndarray:
    """The one tensor in a file, of one of `dtypes` and with `dims` sides.

    Raises `UserError` in one line for anything else (with `advice` where it is a tensor of another kind), and for a
    value that is not finite.
    """
    data = read_bytes(path, _FILE_BYTES)
    try:
        stored = _one_storage(data)
        # without values first: a shape is a claim, and a stride of zero makes a large tensor of a few bytes
        claimed = _loaded(data, "meta")
        dtype = str(claimed.dtype).removeprefix("torch.")
        if dtype not in dtypes or claimed.ndim != dims or claimed.numel() == 0:
            then = f"; {advice}" if advice else ""
            raise Refused(f"it is {dtype} {tuple(claimed.shape)}, not {' or '.join(dtypes)} {_SHAPES[dims]}{then}")
        size = claimed.untyped_storage().nbytes()
        if size != stored or claimed.numel() * claimed.element_size() > stored:
            raise Refused(f"it claims a tensor {tuple(claimed.shape)}, which its {stored:,} bytes do not hold")
        array = _loaded(data, "cpu").detach().contiguous().numpy()
    except Refused as reason:
        raise UserError(f"{path}: not a tensor that can be used: {reason}") from None
    except Exception as error:  # of a damaged file zipfile, pickletools and torch raise nearly everything
        raise UserError(f"{path}: damaged, or no file of torch.save ({type(error).__name__})") from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{path}: holds a value that is not finite")
    return array


def _loaded(data: bytes, place: str) -> torch.Tensor:
    content = torch.load(BytesIO(data), map_location=place, weights_only=True)
    if not isinstance(content, torch.Tensor):
        raise Refused(f"it is a {type(content).__name__}")
    return content


def load_network(file: BufferedReader, path: Path) -> Any:
    """The content of the open file at `path`, tensors in plain containers, in torch.save's current or old format.

    Tensors of the current format are memory-mapped from the file. Raises `Refused`, or whatever torch raises.
    """
    if file.read(len(_OLD_MAGIC)) == _OLD_MAGIC:
        file.seek(0)
        pickles = BytesIO(file.read(_NETWORK.pickle_bytes))
        for _ in range(_OLD_PICKLES):
            _check_names(pickles, _NETWORK)
        return torch.load(path, map_location="cpu", weights_only=True)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:2] != b"PK":
            raise Refused("it is no file of torch.save")
        _examined(file, data, _NETWORK)
    # mapped, a storage is a piece of the file, and so none is larger than the file, whatever the pickle claims
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _one_storage(data: bytes) -> int:
    """The bytes of the one tensor's values in a file, as far as can be told without loading it; raises `Refused`."""
    records = _examined(BytesIO(data), data, _TENSOR)
    storages = [entry for name, entry in records.items() if name.startswith("data/")]
    if len(storages) != 1:
        raise Refused(f"it holds {len(storages)} tensors")
    return storages[0].file_size


def _examined(file: BytesIO | BufferedReader, data: bytes | mmap.mmap, bounds: Bounds) -> Mapping[str, zipfile.ZipInfo]:
    """The records in a file, by name; raises `Refused` unless they and the names in its pickle are harmless."""
    noun, limit, pickle_bytes = bounds
    if data[:2] != b"PK":
        raise Refused("it is no zip archive, as torch.save writes since torch 1.6; load it there and save it again")
    # each entry of the zip directory begins with these bytes; four bytes of pixels equal them once in four billion
    if sum(1 for _ in islice(re.finditer(b"PK\x01\x02", data), 2 * limit + 1)) > 2 * limit:
        raise Refused(f"it has more records than {noun} needs")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        records = {entry.filename.partition("/")[2]: entry for entry in entries}
        if not len(records) == len(entries) <= limit:
            raise Refused(f"it has more records than {noun} needs")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise Refused("its records are compressed, and those of torch.save are not")
        if sum(entry.file_size for entry in entries) > len(data):
            raise Refused("its records claim to be more than the file")
        if "data.pkl" not in records or records["data.pkl"].file_size > pickle_bytes:
            raise Refused(f"its pickle is missing, or longer than that of {noun}")
        _check_names(BytesIO(archive.read(records["data.pkl"])), bounds)
        if (damaged := archive.testzip()) is not None:  # torch.load does not look
            raise Refused(f"it is damaged: the checksum of its record {damaged[:60]!r} does not match")
    return records


def _check_names(pickled: BytesIO, bounds: Bounds) -> None:
    """Refuse a pickle that names anything but what a tensor is made with. Nothing in it is run."""
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name in ("STACK_GLOBAL", "INST") or (operation.name == "GLOBAL" and argument not in _NAMES):
            name = str(argument or "a computed name")[:60]
            raise Refused(f"its pickle names {name!r}, which {bounds.noun} does not need")

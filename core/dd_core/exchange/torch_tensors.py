"""One tensor in a file of `torch.save`, as other people's code leaves it: the one place where a pickle is read.

`torch.load(weights_only=True)` runs no code, but a file may still claim to be far more than it is. So its records, the
names in its pickle and the sizes that it claims are looked at first, and nothing but a tensor is ever made.
"""

from __future__ import annotations

import pickletools
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from dd_core import store
from dd_core.errors import UserError
from dd_core.exchange.formats import read_bytes
from dd_core.store.headers import Refused

_FILE_BYTES = store.SET.file_bytes // 2  # so that images with their logits fit into the file of a set
_RECORDS = 16  # torch.save writes seven for a tensor
_PICKLE_BYTES = 4096  # and a pickle of some two hundred bytes
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
        stored = _examined(data)
        # without values first: a shape is a claim, and a stride of zero makes a large tensor of a few bytes
        claimed = _loaded(data, "meta")
        dtype = str(claimed.dtype).removeprefix("torch.")
        if dtype not in dtypes or claimed.ndim != dims or claimed.numel() == 0:
            then = f"; {advice}" if advice else ""
            raise Refused(f"it is {dtype} {tuple(claimed.shape)}, not {' or '.join(dtypes)} {_SHAPES[dims]}{then}")
        size = claimed.untyped_storage().nbytes()
        if size != stored or claimed.numel() * claimed.element_size() > stored:
            raise Refused(f"a tensor {tuple(claimed.shape)} is not what its {stored:,} bytes hold")
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


def _examined(data: bytes) -> int:
    """The bytes of the one storage in the file, as far as can be told without loading it; raises `Refused`."""
    if data[:2] != b"PK":
        raise Refused("it is no zip archive, which torch.save writes since 1.6; load it in its place and save it again")
    # each entry of the directory begins like this; four bytes of pixels are it by one chance in four billion
    if data.count(b"PK\x01\x02") > 2 * _RECORDS:
        raise Refused("it has more records than a tensor needs")
    with zipfile.ZipFile(BytesIO(data)) as archive:
        entries = archive.infolist()
        records = {entry.filename.partition("/")[2]: entry for entry in entries}
        if not len(records) == len(entries) <= _RECORDS:
            raise Refused("it has more records than a tensor needs")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise Refused("its records are compressed, and those of torch.save are not")
        if sum(entry.file_size for entry in entries) > len(data):
            raise Refused("its records claim to be more than the file")
        storages = [entry for name, entry in records.items() if name.startswith("data/")]
        if "data.pkl" not in records or records["data.pkl"].file_size > _PICKLE_BYTES:
            raise Refused("its pickle is missing, or longer than that of a tensor")
        _check_names(archive.read(records["data.pkl"]))
    if len(storages) != 1:
        raise Refused(f"it holds {len(storages)} tensors")
    return storages[0].file_size


def _check_names(pickled: bytes) -> None:
    """Refuse a pickle that names anything but what a tensor is made with. Nothing in it is run."""
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name in ("STACK_GLOBAL", "INST") or (operation.name == "GLOBAL" and argument not in _NAMES):
            raise Refused(f"its pickle names {str(argument or 'what it makes up')[:60]!r}, and a tensor needs no such")

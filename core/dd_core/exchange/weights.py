"""Weights of networks in other people's files: safetensors, and files of `torch.save`."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from dd_core import store, training
from dd_core.config import Config
from dd_core.errors import UserError
from dd_core.exchange.formats import require_file
from dd_core.exchange.torch_tensors import load_network
from dd_core.networks.origins import WEIGHT_FILES
from dd_core.recipe import Pretraining
from dd_core.store.headers import Refused
from dd_core.system import surroundings
from dd_core.training.feature_teacher_config import FeatureTeacherConfig
from dd_core.training.teacher_config import TeacherConfig

C = TypeVar("C", bound=Config)
FILE_BYTES = 4 << 30  # of the largest file that is read unless the caller allows more
_WITH_WEIGHTS = (TeacherConfig, FeatureTeacherConfig, Pretraining)  # configs with `weights` and `weights_file`
_HEADER_BYTES = 4 << 20  # of a safetensors file: some hundred bytes a tensor
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # what training code keeps weights under, beside other things
_PREFIXES = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before each name


@surroundings.own()
def read_weights(path: Path, *, limit: int = FILE_BYTES) -> dict[str, Tensor]:
    """The weights of a network in a .safetensors, .pth or .pt file of at most `limit` bytes, by name, on the CPU.

    Weights that training code wrapped are unwrapped: they may be under `state_dict`, `model` or `model_state_dict`, and
    their names may begin with `module.` or `_orig_mod.`. No code in the file is run. Raises `UserError` in one line for
    another kind of file, a damaged or hostile file, and a value that is not finite.
    """
    if path.suffix.lower() not in WEIGHT_FILES:
        raise UserError(f"{path}: weights are read from .safetensors, .pth and .pt files")
    require_file(path, limit)
    read = _read_safetensors if path.suffix.lower() == ".safetensors" else _read_torch
    with store.disk_errors(path), open(path, "rb") as file:
        try:
            return read(file, path)
        except Refused as reason:
            raise UserError(f"{path}: no weights that can be used: {reason}") from None
        except Exception as error:  # of a damaged file safetensors, zipfile, pickletools and torch raise anything
            raise UserError(f"{path}: damaged, or no {path.suffix} file ({type(error).__name__})") from None


def keep_weights(path: Path, *, limit: int = FILE_BYTES) -> str:
    """Copy the weights in a file to the cache; returns their name "sha256:...", which `TeacherConfig.weights` takes.

    The name is a digest of the weights: equal weights in another file, or another kind of file, have the same name.
    Raises what `read_weights` raises.
    """
    return training.keep_weights(read_weights(path, limit=limit))


def with_weights_kept(config: C) -> C:
    """The config of a teacher or a method; where it names a file of weights, these are cached and named by digest."""
    if isinstance(config, _WITH_WEIGHTS):
        file = config.weights_file
        return config if file is None else config.model_copy(update={"weights": keep_weights(Path(file))})
    parts = {name: getattr(config, name, None) for name in ("teacher", "pretraining")}
    kept = {name: with_weights_kept(part) for name, part in parts.items() if isinstance(part, _WITH_WEIGHTS)}
    return config.model_copy(update=kept) if kept else config


def _read_safetensors(file: BufferedReader, path: Path) -> dict[str, Tensor]:
    (header_bytes,) = struct.unpack("<Q", file.read(8))
    if header_bytes > _HEADER_BYTES:
        raise Refused(f"its header claims {header_bytes:,} bytes, and {_HEADER_BYTES:,} is the limit")
    with safe_open(path, framework="pt", device="cpu") as tensors:
        return _checked({name: tensors.get_tensor(name) for name in tensors.keys()}, path)  # noqa: SIM118


def _read_torch(file: BufferedReader, path: Path) -> dict[str, Tensor]:
    return _checked(_unwrapped(load_network(file, path)), path)


def _unwrapped(content: Any) -> Mapping[Any, Any]:
    """The mapping of names to weights in a file; raises `Refused`."""
    if not isinstance(content, Mapping):
        raise Refused(f"it is a {type(content).__name__}, not weights by name")
    wrappers = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
    if len(wrappers) > 1:
        raise Refused(f"it holds several: {' and '.join(repr(name) for name in wrappers)}; save one of them alone")
    return content[wrappers[0]] if wrappers else content


def _checked(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Copies of the weights in memory, without wrappers' prefixes; raises `Refused` unless all are finite tensors."""
    if not state:
        raise Refused("it is empty")
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise Refused(f"a tensor in it has the name {str(name)[:60]}, which is a {type(name).__name__}")
        if not isinstance(tensor, Tensor):
            raise Refused(f"{name[:60]!r} is a {type(tensor).__name__}, not a tensor")
    _check_claims(state, file_bytes=path.stat().st_size)
    weights = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise Refused(f"{name[:60]!r} has a value that is not finite")
    return _plainly_named(weights)


def _check_claims(state: Mapping[str, Tensor], *, file_bytes: int) -> None:
    """Refuse tensors that would be much more in memory than the file is: a stride of zero repeats a value for nothing.

    Twice the file's size is allowed: layers that share weights list the same tensor twice.
    """
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if claimed > 2 * file_bytes:
        raise Refused(f"its tensors claim {claimed:,} bytes, and the file has {file_bytes:,}")


def _plainly_named(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES * 2:  # either may be around the other
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights

"""States as JSON: nested dictionaries, lists, tuples and scalars, with every array in a list beside them.

Nothing is written here; `store.files` writes trees and arrays to disk. Values that JSON cannot tell apart (a tuple from
a list), has no place for (a key that is no text) or cannot hold to the last bit (a float) are tagged in the tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def to_tree(value: Any, arrays: list[np.ndarray]) -> Any:
    """`value` as JSON values; its arrays and tensors are appended to `arrays`. Raises TypeError for other objects."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, Mapping):
        pairs = [[to_tree(key, arrays), to_tree(item, arrays)] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [to_tree(item, arrays) for item in value]}
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if type(value).__module__.startswith("torch") and hasattr(value, "detach"):
        arrays.append(value.detach().cpu().numpy())
        return {"tensor": len(arrays) - 1}
    raise TypeError(f"a state holds tensors and plain values, not {type(value).__name__}")


def from_tree(tree: Any, tensors: dict[str, np.ndarray]) -> Any:
    """The value of a tree. Its arrays `t0`, `t1`... are taken out of `tensors`, so that none is held twice.

    Raises LookupError, TypeError, ValueError, OverflowError or RecursionError for what `to_tree` did not make.
    """
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "float":
        return float.fromhex(value)
    if kind == "dict":
        return {from_tree(key, tensors): from_tree(item, tensors) for key, item in value}
    if kind == "array":
        return tensors.pop(f"t{value}")
    if kind == "tensor":
        import torch  # states without tensors are read without torch

        array = tensors.pop(f"t{value}")
        array.flags.writeable = True
        return torch.from_numpy(array)
    items = [from_tree(item, tensors) for item in value]
    return {"list": list, "tuple": tuple}[kind](items)

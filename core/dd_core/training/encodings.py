"""How a bank stores logits: in half precision, the largest alone, or in eight bits. numpy arrays in and out.

Shapes: K classes; any shape (..., K) of logits.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from dd_core.errors import UserError

Arrays = dict[str, np.ndarray]
LEVELS = 255  # steps between the smallest and the largest logit in eight bits


class Encoding:
    """A way to store logits."""

    name: ClassVar[str]

    @abstractmethod
    def encode(self, logits: Float[np.ndarray, "*rows K"]) -> Arrays:
        """Arrays whose names begin with `logits`."""

    @abstractmethod
    def decode(self, arrays: Arrays, classes: int) -> Float[np.ndarray, "*rows K"]:
        """float32 logits."""

    @abstractmethod
    def nbytes(self, classes: int) -> int:
        """Bytes that the logits of one view take."""


@dataclass(frozen=True)
class Half(Encoding):
    """float16; logits that a teacher computed in half precision come back bit for bit."""

    name: ClassVar[str] = "fp16"

    def encode(self, logits: Float[np.ndarray, "*rows K"]) -> Arrays:
        """Rounded to half precision; values beyond its range become its largest."""
        largest = np.finfo(np.float16).max
        return {"logits": np.clip(logits, -largest, largest).astype(np.float16)}

    def decode(self, arrays: Arrays, classes: int) -> Float[np.ndarray, "*rows K"]:
        """The stored logits as float32."""
        del classes
        return arrays["logits"].astype(np.float32)

    def nbytes(self, classes: int) -> int:
        """Two bytes for each class."""
        return 2 * classes


@dataclass(frozen=True)
class Top(Encoding):
    """The `count` largest logits in float16, and the mean of the others, which stands for each of them."""

    count: int
    name: ClassVar[str] = "top"

    def encode(self, logits: Float[np.ndarray, "*rows K"]) -> Arrays:
        """The largest logits first; of equal logits the one of the first class."""
        count = min(self.count, logits.shape[-1])
        order = np.argsort(-logits, axis=-1, kind="stable")
        top, rest = order[..., :count], order[..., count:]
        others = np.take_along_axis(logits, rest, axis=-1).astype(np.float64)
        mean = others.mean(axis=-1) if rest.shape[-1] else np.zeros(logits.shape[:-1])
        half = Half().encode(np.take_along_axis(logits, top, axis=-1))["logits"]
        return {"logits": half, "logits_class": top.astype(np.int32), "logits_rest": mean.astype(np.float16)}

    def decode(self, arrays: Arrays, classes: int) -> Float[np.ndarray, "*rows K"]:
        """The stored logits in their classes' places, and the mean everywhere else."""
        values, where, rest = arrays["logits"], arrays["logits_class"], arrays["logits_rest"]
        logits = np.repeat(rest.astype(np.float32)[..., None], classes, axis=-1)
        np.put_along_axis(logits, where.astype(np.int64), values.astype(np.float32), axis=-1)
        return logits

    def nbytes(self, classes: int) -> int:
        """Six bytes for each stored logit, and two for the mean."""
        return 6 * min(self.count, classes) + 2


@dataclass(frozen=True)
class Bytes(Encoding):
    """Eight bits a logit, on a scale from the smallest to the largest logit of a view, whose ends float32 stores."""

    name: ClassVar[str] = "uint8"

    def encode(self, logits: Float[np.ndarray, "*rows K"]) -> Arrays:
        """The nearest of 256 levels."""
        low = logits.min(axis=-1, keepdims=True).astype(np.float32)
        step = (logits.max(axis=-1, keepdims=True).astype(np.float32) - low) / LEVELS
        levels = np.rint((logits - low) / np.where(step > 0, step, 1)).astype(np.uint8)
        return {"logits": levels, "logits_range": np.concatenate([low, step], axis=-1)}

    def decode(self, arrays: Arrays, classes: int) -> Float[np.ndarray, "*rows K"]:
        """The logits at the stored levels."""
        del classes
        low, step = np.split(arrays["logits_range"], 2, axis=-1)
        return low + arrays["logits"].astype(np.float32) * step

    def nbytes(self, classes: int) -> int:
        """One byte for each class, and eight for the scale."""
        return classes + 8


def encoding(text: str) -> Encoding:
    """The encoding that a text such as `fp16`, `uint8` or `top-10` names; raises `UserError`."""
    plain = {"fp16": Half(), "uint8": Bytes()}
    if text in plain:
        return plain[text]
    if (match := re.fullmatch(r"top-([1-9]\d{0,5})", text)) is not None:
        return Top(int(match[1]))
    raise UserError(f"unknown encoding of logits '{text[:30]}' (known: fp16, uint8, top-K such as top-10)")

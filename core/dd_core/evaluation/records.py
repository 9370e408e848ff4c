"""Kept scores, by which an interrupted evaluation goes on where it stopped.

A record is a small JSON file, whose name is the digest of everything that determines the score. Any change of that
changes the name, so a record is never out of date. A damaged record is ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from dd_core import store
from dd_core.config import Config, canonical, decode, digest, plain
from dd_core.errors import DDError, UserError

C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Record:
    """One kept score, in `folder`. facts: what determines the score; fresh: whether an earlier score is ignored."""

    folder: Path
    facts: Mapping[str, Any]
    fresh: bool = False

    @property
    def path(self) -> Path:
        """The record's file."""
        return self.folder / f"{digest(dict(self.facts))}.json"

    def read(self, model: type[C]) -> C | None:
        """The score, as `model`; None where there is no record, or a damaged one."""
        if self.fresh:
            return None
        with suppress(UserError, ValueError, AttributeError):
            content = store.read_json(self.path)
            body = {"facts": dict(self.facts), "score": content.get("score")}
            # the facts are compared too, as the file may have been renamed
            if content.get("sha256") == digest(body) and canonical(content.get("facts")) == canonical(body["facts"]):
                return decode(model, content["score"])
        return None

    def write(self, score: Config) -> None:
        """Keep `score`, atomically; a failure of the disk is ignored."""
        body = {"facts": dict(self.facts), "score": plain(score)}
        with suppress(DDError):
            # of a call that was killed while it wrote; another one that writes this moment keeps no score, or the same
            store.remove_leftovers(self.folder, of=self.path.name)
            store.write_json(self.path, {**body, "sha256": digest(body)})


def digest_of(value: object) -> str:
    """sha256 over the content of a tensor, an array, a plain value, or a dataclass of such values."""
    whole = hashlib.sha256()
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        whole.update(repr((value.dtype.str, value.shape)).encode())
        whole.update(np.ascontiguousarray(value).data)
    elif is_dataclass(value):
        # fields that are not arguments of the class are caches, such as copies on a device
        parts = {field.name: digest_of(getattr(value, field.name)) for field in fields(value) if field.init}
        whole.update(canonical(parts).encode())
    else:
        whole.update(repr(value).encode())
    return whole.hexdigest()

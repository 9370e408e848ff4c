"""Scores that are kept, so that an evaluation which was interrupted goes on where it stopped.

A record is a small JSON file whose name is the digest of everything that determines the score. Whatever is asked for
differently has another name, so that a record is never out of date; a damaged one is as good as none.
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
    """One kept score: the file of the `facts` that determine it, in `folder`. `fresh`: an earlier score is not read."""

    folder: Path
    facts: Mapping[str, Any]
    fresh: bool = False

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{digest(dict(self.facts))}.json"

    def read(self, model: type[C]) -> C | None:
        """The score, as `model`; None where none is kept, or a damaged one."""
        if self.fresh:
            return None
        with suppress(UserError, ValueError, AttributeError):
            content = store.read_json(self.path)
            body = {"facts": dict(self.facts), "score": content.get("score")}
            # of the facts too: a file that was renamed is no record of these
            if content.get("sha256") == digest(body) and canonical(content.get("facts")) == canonical(body["facts"]):
                return decode(model, content["score"])
        return None

    def write(self, score: Config) -> None:
        """Keep `score`, atomically; where the disk refuses, it is not kept."""
        body = {"facts": dict(self.facts), "score": plain(score)}
        with suppress(DDError):
            # of a call that was killed while it wrote; another one that writes this moment keeps no score, or the same
            store.remove_leftovers(self.folder, of=self.path.name)
            store.write_json(self.path, {**body, "sha256": digest(body)})


def digest_of(value: object) -> str:
    """sha256 over what a tensor, an array, a dataclass of them or a plain value holds."""
    whole = hashlib.sha256()
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        whole.update(repr((value.dtype.str, value.shape)).encode())
        whole.update(np.ascontiguousarray(value).data)
    elif is_dataclass(value):
        # what a value only remembers, such as copies on a device, is no argument of its class
        parts = {field.name: digest_of(getattr(value, field.name)) for field in fields(value) if field.init}
        whole.update(canonical(parts).encode())
    else:
        whole.update(repr(value).encode())
    return whole.hexdigest()

"""Folders of small random pictures, and loading them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dd_core import datasets
from dd_core.images import Source
from dd_core.system.parallel import Workers

ONE = Workers(count=1)


def picture(seed: int, *, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> Image.Image:
    draw = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(draw.integers(0, 65536, size[::-1], dtype=np.uint16))
    return Image.fromarray(draw.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)


def put(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def put_classes(folder: Path, *, count: int = 5, names: tuple[str, ...] = ("cat", "dog"), first: int = 0) -> None:
    for index, name in enumerate(names):
        for number in range(count):
            put(folder / name / f"{number}.png", picture(first + 100 * index + number))


def load(root: Path, split: str = "train", **options: object) -> Source:
    settings: dict[str, object] = {"workers": ONE, **options}
    return datasets.load(f"folder:{root}", split=split, **settings)  # pyright: ignore[reportArgumentType]


def pixels(source: Source) -> torch.Tensor:
    return torch.cat(list(source.batches(64)))


def png(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def spoil(root: Path) -> None:
    """Replace the content of every file; its size and time stay."""
    for file in root.rglob("*.png"):
        stat = file.stat()
        file.write_bytes(b"\0" * stat.st_size)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

"""The images and sets of `nb201.py` and `nb201_sets.py`."""

from __future__ import annotations

from pathlib import Path

from dd_apps.data import Data
from dd_apps.nas.kit import Kit
from dd_apps.nas.proxies.config import ProxyConfig
from dd_apps.nas.space_config import CellsConfig

OUT = Path("runs/bench-nb201/sets")
VALIDATION = 0.04  # of the training images of each class: no set has seen them


def kit_of(data: str, *proxies: ProxyConfig, channels: int = 16, modules: int = 5, small: bool = False) -> Kit:
    """The kit that scores cells; small: with few images."""
    space = CellsConfig(channels=channels, modules=modules)
    images = 1000 if small else None
    validation = 0.3 if small else VALIDATION
    return Kit(Data(data), space, proxies, images=images, validation=validation, device="cpu")


def set_file(folder: Path, method: str, ipc: int) -> Path:
    """The file of a distilled set."""
    return folder / f"{method}-{ipc}.safetensors"

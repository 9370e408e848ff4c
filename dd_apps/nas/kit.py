"""Names and settings by which every process makes its space and proxies, once, to score architectures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from dd_apps.data import Data
from dd_apps.nas import spaces
from dd_apps.nas.proxies.building import Images, built
from dd_apps.nas.proxies.config import ProxyConfig, sets_of
from dd_apps.nas.proxies.proxy import Proxy
from dd_apps.nas.proxies.scored import Scored
from dd_apps.nas.space_config import SpaceConfig
from dd_core import store, streams
from dd_core.config import canonical, digest, plain
from dd_core.errors import Option, UserError
from dd_core.images import Source, called, require_labels, split_indices

from nni.nas.nn.pytorch import ModelSpace  # isort: skip (spaces imports nni without its warnings)


@dataclass(frozen=True)
class Kit:
    """Names and settings of a scoring, which are sent to workers in place of images.

    data: the real images, whose training split is read. images: number of training images that are used; None: all.
    validation: fraction of each class of them that is held out to validate proxies. seed: of networks' initial weights
    and of their training. images_seed: seed by which images are drawn.
    """

    data: Data
    space: SpaceConfig
    proxies: tuple[ProxyConfig, ...] = ()
    images: int | None = None
    validation: float = 0.1
    seed: int = 0
    images_seed: int = 0
    device: str = "auto"

    def tools(self) -> Tools:
        """The tools of this kit in this process, which keeps the tools of the last kit only."""
        data = {"name": self.data.name, "image_size": self.data.image_size, "skip_corrupt": self.data.skip_corrupt}
        proxies = [plain(config) for config in self.proxies]
        files = [_state_of(Path(file)) for file in files_of(self.proxies)]
        key = canonical({"data": data, "proxies": proxies, "files": files, "device": self.device, **self.settings()})
        if key not in _made:
            _made.clear()
            _made[key] = Tools(self)
        return _made[key]

    def settings(self) -> dict[str, JsonValue]:
        """The settings that determine all scores, beside the images and the proxy."""
        names = ("images", "validation", "seed", "images_seed")
        fields: dict[str, JsonValue] = {name: getattr(self, name) for name in names}
        return {"space": plain(self.space), **fields}


_made: dict[str, Tools] = {}


@dataclass(frozen=True, eq=False)
class Tools:
    """Space, images and proxies of a kit, each made at its first use.

    Everything here raises `UserError` for a kit whose data, sets and settings do not fit together.
    """

    kit: Kit

    @cached_property
    def train(self) -> Source:
        """The training images that are used, with those that validate."""
        train = self.kit.data.load("train")
        return train if self.kit.images is None else _some(train, self.kit.images, self.kit.images_seed)

    @cached_property
    def images(self) -> Images:
        """The training images without the validation images, the validation images, and the distilled sets."""
        train = self.train
        rest, validation = split_indices(train, self.kit.validation, self.kit.images_seed)
        sets = {file: store.read_set(Path(file)) for file in files_of(self.kit.proxies)}
        return Images(train.subset(rest), train.subset(validation), sets)

    @cached_property
    def space(self) -> ModelSpace:
        """The space, for the images' shape and classes."""
        channels, height, width = self.images.train.image_shape
        classes = len(self.images.train.classes)
        return spaces.of(self.kit.space, in_channels=channels, classes=classes, image_size=(height, width))

    def proxy(self, index: int) -> Proxy:
        """Proxy `index` of the kit."""
        if index not in self._proxies:
            config, kit = self.kit.proxies[index], self.kit
            self._proxies[index] = built(config, self.images, seed=kit.seed, device=kit.device)
        return self._proxies[index]

    @cached_property
    def _proxies(self) -> dict[int, Proxy]:
        return {}

    def score(self, index: int, sample: Mapping[str, Any]) -> Scored:
        """The score of a sample's network by proxy `index`. Raises what building and scoring the network raise."""
        network = spaces.build(self.space, sample, seed=self.kit.seed)
        return self.proxy(index).score(network, seed=self.kit.seed)

    def identity(self) -> dict[str, JsonValue]:
        """Settings and fingerprints of images that determine all scores, beside the proxy."""
        prints = {"train": self.images.train.fingerprint(), "validation": self.images.validation.fingerprint()}
        return {**self.kit.settings(), "fingerprints": {**prints}}

    def trial(self, index: int) -> str:
        """A digest that names what proxy `index` computes for an architecture; sets count by their files' content.

        Proxies that differ only in the score that ranks (`by`) or in their name have the same digest.
        """
        config = self.kit.proxies[index]
        contents = {field: store.file_sha256(Path(file)) for field, file in sets_of(config).items()}
        return digest({**plain(config), **contents, "by": None, "name": None})[:16]


@dataclass(frozen=True)
class ProxyTrial:
    """A trial of `search`: the score of a sample by a proxy of a kit."""

    kit: Kit
    index: int = 0

    def __call__(self, sample: dict[str, Any]) -> float:
        """The value of the sample's network."""
        return self.kit.tools().score(self.index, sample).value


def files_of(proxies: Iterable[ProxyConfig]) -> list[str]:
    """The files of distilled sets that proxies name, each once."""
    return [*dict.fromkeys(file for config in proxies for file in sets_of(config).values())]


def _state_of(file: Path) -> list[int]:
    """Size and time of a file, which change when the file is written again."""
    with store.disk_errors(file):
        state = file.stat()
    return [state.st_size, state.st_mtime_ns]


def _some(train: Source, count: int, seed: int) -> Source:
    """`count` random images, equally many of each class as far as possible."""
    if not 0 < count < len(train):
        raise UserError(f"{Option('images', count)}: {called(train)} has {len(train)} training images")
    order = torch.randperm(len(train), generator=streams.generator(seed, "images"))
    labels = require_labels(train)[order]
    place = torch.empty(len(train), dtype=torch.int64)  # position of an image among those of its class
    for label in range(len(train.classes)):
        mine = labels == label
        place[mine] = torch.arange(int(mine.sum()))
    return train.subset(order[place.argsort(stable=True)][:count].sort().values)

"""The proxy of a config, for the images of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dd_apps.nas.proxies.config import (
    DistilledConfig,
    EarlyStoppingConfig,
    ProxyConfig,
    SubsetConfig,
    ZeroCostConfig,
)
from dd_apps.nas.proxies.proxy import Proxy
from dd_apps.nas.proxies.subsets import random_part, real_subset
from dd_apps.nas.proxies.trained import DistilledProxy, EarlyStoppingProxy, RealProxy
from dd_apps.nas.proxies.zero_cost import ZeroCostProxy
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.images import Source
from dd_core.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Images:
    """The images of proxies: `train` (without `validation`), `validation`, and distilled sets by file."""

    train: Source
    validation: Source
    sets: Mapping[str, DistilledSet]

    def set_of(self, file: str) -> DistilledSet:
        """The distilled set of a file; raises `UserError` for a file that was not read."""
        if file not in self.sets:
            raise UserError(f"no distilled set '{file}' was read for the proxies")
        return self.sets[file]


def built(config: ProxyConfig, images: Images, *, seed: int = 0, device: str = "auto") -> Proxy:
    """The proxy of a config; seed: of trials that NNI starts. Raises `UserError` as the proxy does."""
    shared: dict[str, Any] = {"name": config.called, "seed": seed, "device": device}
    if isinstance(config, ZeroCostConfig):
        form = None if config.like is None else images.set_of(config.like).input_form()
        return ZeroCostProxy(measure=config.measure, data=images.train, images=config.images, form=form, **shared)
    shared |= {"passes": config.passes, "by": config.by}
    if isinstance(config, DistilledConfig):
        ds = images.set_of(config.set)
        return DistilledProxy(ds, images.validation, recipe=config.trained_by(ds.manifest.recipe), **shared)
    like = None if config.like is None else images.set_of(config.like)
    recipe = config.trained_by(Recipe() if like is None else like.manifest.recipe)
    if isinstance(config, SubsetConfig):
        assert like is not None
        subset = real_subset(config.kind, images.train, like=like, seed=config.seed)
        return DistilledProxy(subset, images.validation, recipe=recipe, **shared)
    shared |= {"recipe": recipe, "form": None if like is None else like.input_form()}
    if isinstance(config, EarlyStoppingConfig):
        return EarlyStoppingProxy(images.train, images.validation, **shared)
    part = random_part(images.train, fraction=config.fraction, seed=config.seed)
    return RealProxy(part, images.validation, **shared)

"""The first step of ranking and search: make a scenario's distilled sets, and the kit of its proxies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dd_apps.nas.config import NasScenario
from dd_apps.nas.kit import Kit, files_of
from dd_apps.nas.proxies.config import ProxyConfig, sets_of
from dd_core import exchange, runner
from dd_core.distilled import DistilledSet, Size
from dd_core.methods import decode_method
from dd_core.runner import RunOptions


@dataclass(frozen=True)
class Prepared:
    """The kit of a scenario, whose proxies name the files of their sets, and the sets that were made for it."""

    kit: Kit
    made: Mapping[str, DistilledSet]

    def notes(self) -> list[str]:
        """Notes on the images that proxies see, and on sets that were distilled from validation images too."""
        images, kit = self.kit.tools().images, self.kit
        seen = f"{len(images.train):,} training images of {images.train.name}"
        validated = f"{len(images.validation):,} others validate (seed {kit.seed}); no proxy sees test images"
        return [f"proxies learn from, or are measured on, {seen}; {validated}", *self._origins()]

    def _origins(self) -> Iterator[str]:
        tools = self.kit.tools()
        known = {
            tools.images.train.fingerprint(): "without the images that validate",
            tools.train.fingerprint(): "with the images that validate, which flatters its accuracies",
        }
        for file in files_of(self.kit.proxies):
            made = tools.images.set_of(file).manifest.provenance
            images = known.get("" if made is None else made.fingerprint, "")
            source = f"these training images, {images}" if images else "other images than these"
            where = "does not say from which images it is made" if made is None else f"distilled from {source}"
            yield f"set {Path(file).stem}: {where}"


def prepared(scenario: NasScenario, proxies: Sequence[ProxyConfig], *, folder: Path, options: RunOptions) -> Prepared:
    """Make the sets of a scenario in `folder`, or find them there, and make its kit.

    A set is distilled from the training images without those that validate. Raises what `runner.distill` raises, and
    `UserError` for files that are no sets.
    """
    kit = Kit(
        scenario.real_images,
        scenario.space,
        images=scenario.images,
        validation=scenario.validation,
        seed=scenario.seed,
        images_seed=scenario.seed,
        device=options.device,
    )
    files = {name: folder / f"{name}.safetensors" for name in scenario.sets}
    made: dict[str, DistilledSet] = {}
    for name, config in scenario.sets.items():
        options.reporter.message(f"set {name}: {config.method['name']}, {config.ipc} a class")
        train, size = kit.tools().images.train, Size(ipc=config.ipc)
        method = exchange.with_weights_kept(decode_method(config.method))
        made[name] = runner.distill(method, train, size, seed=config.seed, out=files[name], options=options)
    resolved = tuple(_with_files(config, files) for config in proxies)
    return Prepared(replace(kit, proxies=resolved), made)


def _with_files(config: ProxyConfig, files: Mapping[str, Path]) -> ProxyConfig:
    """The config with files in place of the names of made sets; the proxy keeps its name in tables."""
    named = {field: str(files[name]) for field, name in sets_of(config).items() if name in files}
    return config.model_copy(update={**named, "name": config.called})

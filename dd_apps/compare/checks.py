"""Checks of a comparison's sizes, methods and networks before anything is made or trained."""

from __future__ import annotations

from dd_apps.compare.config import CompareScenario
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.evaluation import protocols
from dd_core.evaluation.tuning import validation_split
from dd_core.images import Source, called, indices_by_class, require_labels
from dd_core.networks.own import built, outputs_for
from dd_core.streams import Streams


def check(scenario: CompareScenario, train: Source, test: Source) -> None:
    """Raise `UserError` for sizes, methods and networks that the real images do not allow."""
    for source in (train, test):
        require_labels(source)
    if train.classes != test.classes or train.image_shape != test.image_shape:
        raise UserError(f"{called(train)}: training and test images differ in classes or in shape; expected the same")
    _check_sizes(scenario, train)
    for network in scenario.networks:
        _check_network("networks", network, train)
    for (name, ipc), config in scenario.configs.items():
        _check_network(f"methods.{name}.recipe.network", config.recipe.network, train)
        try:
            config.check(train, Size(ipc=ipc))
        except UserError as error:
            raise UserError(f"methods.{name}, {ipc} a class: {error.text}") from None


def _check_sizes(scenario: CompareScenario, train: Source) -> None:
    """Raise `UserError` if an ipc exceeds the images of a class: random real images are drawn without replacement."""
    source, where = train, ""
    settings = protocols.load(scenario.protocol).settings(images=max(scenario.ipcs) * len(train.classes))
    if settings:
        source, _ = validation_split(train, Streams(scenario.seed))
        where = f" when protocol {scenario.protocol} has held its validation images back"
    members = [len(rows) for rows in indices_by_class(source)]
    fewest = min(members)
    if max(scenario.ipcs) > fewest:
        smallest = train.classes[members.index(fewest)]
        raise UserError(
            f"ipcs: {max(scenario.ipcs)} images a class are more than the real images of class '{smallest}' of "
            f"{called(train)}, which has {fewest}{where}; {fewest} is the most"
        )


def _check_network(key: str, network: str, train: Source) -> None:
    """Raise `UserError` for a network that cannot be built for the images' shape, or cannot process an image."""
    channels, height, width = train.image_shape
    try:
        outputs_for(built(network, train.image_shape, outputs=len(train.classes), seed=0), train.image_shape)
    except UserError as error:
        raise UserError(f"{key}: {error.text} (images are {channels} x {height} x {width})") from None

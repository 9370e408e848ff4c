"""Train networks on a set, by the set's own recipe or another one.

Distilled sets and their random-real twins go through the same function, which does not know which of both it gets.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from dd_core.datasets import plain
from dd_core.datasets.plain import Images
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.images import InputForm, Source
from dd_core.networks.own import Network, built, is_own, require_network
from dd_core.recipe import Recipe
from dd_core.streams import Streams, require_seed
from dd_core.system import device as devices
from dd_core.system import surroundings
from dd_core.system.progress import reporting
from dd_core.system.reporter import Reporter, Silent
from dd_core.training import losses, starts
from dd_core.training.initial import for_network, initialised, require_startable
from dd_core.training.lessons import Lessons, RealLessons, lessons_of
from dd_core.training.loop import Loop
from dd_core.training.own_augmentation import Augmentation, check_augmentation
from dd_core.training.settings import Settings
from dd_core.training.viewing import AskedTeacher, TaughtLessons, Teacher, viewed

if TYPE_CHECKING:
    from dd_core.artefacts import Artefact


@surroundings.own()
def train(
    ds: DistilledSet | Source | Images,
    *,
    network: Network | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    pretrain_on: Source | Images | None = None,
    teacher: nn.Module | None = None,
    augmentation: Augmentation | None = None,
    progress: bool = False,
) -> nn.Module:
    """A network trained on a set, or on real images, in evaluation mode.

    Real images are whatever `as_source` takes. They have no recipe of their own, so `recipe` is required. Inputs of the
    trained network are then what `InputForm.of(as_source(images))` makes of uint8 images; after training on a set they
    are what `ds.as_dataset()` gives, or what `ds.input_form()` makes of real images.

    `recipe` is the set's own unless another is given. `network` is the recipe's; or another network's name; or a module
    of the caller's, which is trained in place from its own weights; or a function that makes a network, such as a
    class, called with (in_channels, outputs, image_size), which `module:Class` imports. A set for pre-trained networks
    gets a held-out network, trained on `pretrain_on`; a set for one particular network gets that network, and any other
    `network` raises `UserError`.

    A set with features trains a network with as many outputs as an image has features. `teacher` labels the network's
    inputs, where the recipe has a teacher, and is not changed. `augmentation` is a function of network inputs
    (n, C, H, W) that replaces the recipe's; `seed` determines what the function draws from the global generators.
    `progress` shows a bar of the epochs, or in a log a line every so often.
    """
    require_network(network)
    seed = require_seed(seed)
    if isinstance(ds, DistilledSet):
        recipe, lessons = _of_set(ds, recipe, network)
    else:
        recipe, lessons = _of_real_images(ds, recipe, network)
    if augmentation is not None:
        check_augmentation(augmentation, recipe)
    if pretrain_on is not None:
        pretrain_on = plain.given(pretrain_on, what="pretrain_on")
    start = starts.of_recipe(
        recipe, lessons.image_shape, lessons.outputs, count=1, seed=seed, pretrain_on=pretrain_on, device=device
    )
    model: str | nn.Module = recipe.network
    if network is not None and is_own(network):
        own = isinstance(network, nn.Module)
        model = network if own else built(network, lessons.image_shape, outputs=lessons.outputs, seed=seed)
    asked = None if teacher is None else AskedTeacher(teacher, mode=recipe.teacher)
    return fit(
        lessons,
        model,
        recipe,
        streams=Streams(seed),
        device=devices.resolve(device),
        start=start,
        teacher=asked,
        augmentation=augmentation,
        reporter=reporting(None, progress=progress),
    )


def _of_set(ds: DistilledSet, recipe: Recipe | None, network: Network | None) -> tuple[Recipe, Lessons]:
    provenance = ds.manifest.provenance
    recipe = (recipe or ds.manifest.recipe).for_source("" if provenance is None else provenance.source)
    recipe = for_network(recipe, network)
    require_startable(ds, recipe)
    return recipe, lessons_of(ds, recipe)


def _of_real_images(images: Images, recipe: Recipe | None, network: Network | None) -> tuple[Recipe, Lessons]:
    if isinstance(images, (str, Path)):
        raise UserError(f"a set in a file is read by read_set({str(images)!r}), and a data set by load_data")
    source = plain.given(images, what="what is trained on")
    if recipe is None:
        raise UserError("real images have no recipe of their own; give recipe=Recipe(epochs=30, ...)")
    if losses.needs_values(recipe.loss):
        raise UserError(
            f"loss '{recipe.loss}' learns the targets of a set, and real images have labels alone; take another loss"
        )
    recipe = for_network(recipe.for_source(source.name), network)
    return recipe, RealLessons(source, InputForm.of(source))


def fit(
    lessons: Lessons,
    network: str | nn.Module,
    recipe: Recipe,
    *,
    streams: Streams,
    device: torch.device,
    start: Artefact | None = None,
    index: int = 0,
    teacher: Teacher | None = None,
    augmentation: Augmentation | None = None,
    reporter: Reporter | None = None,
) -> nn.Module:
    """`network` trained on `lessons` by `recipe`, in evaluation mode.

    A network that is given by its name is initialised first, as the recipe says, or as network `index` of the pool
    `start`. A module is trained in place, from its own weights. `teacher` labels the network's inputs, where the recipe
    has a teacher. `augmentation` replaces the recipe's augmentation, but not its views. `reporter` reports epochs.
    Raises `UserError` where the recipe needs a pool or a teacher that is not given, and for a module together with a
    pool.
    """
    if isinstance(network, str):
        recipe = recipe.model_copy(update={"network": network})
        shape, outputs = lessons.image_shape, lessons.outputs
        network = initialised(recipe, shape, outputs, streams=streams, start=start, index=index)
    elif start is not None:
        raise UserError(f"the given {type(network).__name__} has its own weights; leave out `start`")
    lessons = _as_recipe_shows(lessons, recipe, streams=streams, teacher=teacher)
    settings = Settings.of(recipe)
    with (reporter or Silent()).stage("epochs", total=settings.epochs) as stage:
        Loop(
            network,
            lessons,
            settings,
            streams=streams,
            device=device,
            augmentation=augmentation,
            after_epoch=lambda _: stage.advance(),
        ).run()
    return network.eval()


def _as_recipe_shows(lessons: Lessons, recipe: Recipe, *, streams: Streams, teacher: Teacher | None) -> Lessons:
    """The lessons under the recipe's views, with labels of the recipe's teacher."""
    if recipe.views is not None:
        lessons = viewed(lessons, recipe.views, streams)
    if recipe.teacher == "none":
        return lessons
    if teacher is None:
        raise UserError(
            "the recipe needs a teacher that labels the network's inputs, and none is given; give `teacher`"
        )
    return TaughtLessons(lessons, teacher, temperature=recipe.temperature)

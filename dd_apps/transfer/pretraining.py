"""Pre-training of a backbone on a set: on features by mean squared error, on labels by cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from dd_core import networks, training
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.networks.import_paths import is_import_path
from dd_core.networks.own import Network, built, name_of
from dd_core.recipe import Recipe
from dd_core.system import surroundings

Say = Callable[[str], object]
STALE = 0.05  # share of initial values in a batch norm's running statistics from which the user is told


@surroundings.own()
def pretrain(
    backbone: Network,
    ds: DistilledSet,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    say: Say | None = None,
    progress: bool = False,
) -> nn.Module:
    """A network that was trained on `ds` by `recipe` (None: the set's own), in evaluation mode.

    backbone: a network's name, `module:Class`, a function (in_channels, outputs, image_size) -> module, or a module,
    which is copied. The network has an output for each feature of a set with features, and for each class of a set with
    labels. Normalise real images for it by `ds.input_form()`.

    Batch norm cannot learn from a mini-batch of one image: if the last mini-batch of an epoch would be one, their size
    changes. `say` is told of that, and of running statistics that are still near their initial values. `progress` shows
    a bar of the epochs. Raises `UserError` for images that the backbone cannot take and for a set of one image if it
    has batch norms, and `Diverged`.
    """
    own = recipe or ds.manifest.recipe
    outputs = outputs_of(ds)
    channels, height, width = ds.images.shape[1:]
    model = built(backbone, (channels, height, width), outputs=outputs, seed=seed)
    told = say or _silent
    size = safe_batch_size(ds.decoded_count, own.batch_size, model, name=name_of(backbone), say=told)
    own = own.model_copy(update={"batch_size": size})
    # a network by name gets initial weights by the recipe; any other backbone has weights of its own
    network = backbone if isinstance(backbone, str) and not is_import_path(backbone) else model
    trained = training.train(ds, network=network, recipe=own, seed=seed, device=device, progress=progress)
    for line in stale_norms(trained, steps=len(own.steps) or own.epochs * -(-ds.decoded_count // size)):
        told(line)
    return trained


def outputs_of(ds: DistilledSet) -> int:
    """The number of outputs of a network for `ds`: of an image's targets, or of classes."""
    return len(ds.classes) if ds.targets is None else ds.targets.shape[1]


def safe_batch_size(images: int, size: int, model: nn.Module, *, name: str, say: Say) -> int:
    """A size of mini-batches, preferably at most `size`, that leaves no mini-batch of a single image.

    For a network without batch norm it is `size`. Raises `UserError` for one image and a network with batch norm.
    """
    if not networks.mixes_images(model):
        return size
    if images < 2:
        raise UserError(
            f"backbone '{name}' has batch norms, which need at least two images, and there is {images}; take a "
            "backbone without batch norms, such as convnet"
        )
    sizes = [*range(min(size, images), 1, -1), *range(max(2, size + 1), images + 1)]
    safe = size if size > images else next(each for each in sizes if images % each != 1)
    if safe != size:
        say(
            f"{name}: mini-batches of {safe} images instead of {size}, which would leave one of {images} images alone; "
            "a batch norm learns nothing from one image"
        )
    return safe


def stale_norms(model: nn.Module, *, steps: int) -> list[str]:
    """A line to the user if running statistics of batch norms are still near their initial values (mean 0, variance 1).

    After n steps with momentum m, the initial values have the share (1 - m)^n.
    """
    momenta = [norm.momentum for norm in networks.batch_norms(model).values() if norm.momentum is not None]
    share = max([(1 - momentum) ** steps for momentum in momenta], default=0.0)
    if share < STALE:
        return []
    return [
        f"after {steps} steps the running statistics of batch norms still consist of their initial values by "
        f"{100 * share:.0f} %, which affects all scores; more epochs or smaller mini-batches make more steps"
    ]


def _silent(line: str) -> None:
    del line

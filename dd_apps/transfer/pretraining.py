"""Pre-training of a backbone on a set: features by mean squared error, labelled sets by cross-entropy."""

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
STALE = 0.05  # share of a batch norm's first values in its running statistics that is worth a word


@surroundings.own()
def pretrain(
    backbone: Network,
    ds: DistilledSet,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    say: Say | None = None,
) -> nn.Module:
    """A network that was trained on `ds` by its own recipe, or by `recipe`, in evaluation mode.

    backbone: a network's name, `module:Class`, a function (in_channels, outputs, image_size) -> module, or a module,
    which is copied. A set with features gives it an output for each of them, a set with labels one for each class.
    Feed it real images through `ds.input_form()`.

    Batch norm cannot learn from a mini-batch of one image: where the last one of an epoch would be, mini-batches get
    another size. `say` is told so, and where few steps left running statistics near their first values. Raises
    `UserError` for images that the backbone cannot take and for a set of one image where it has batch norms, and
    `Diverged`.
    """
    own = recipe or ds.manifest.recipe
    outputs = outputs_of(ds)
    channels, height, width = ds.images.shape[1:]
    model = built(backbone, (channels, height, width), outputs=outputs, seed=seed)
    told = say or _silent
    size = safe_batch_size(ds.decoded_count, own.batch_size, model, name=name_of(backbone), say=told)
    own = own.model_copy(update={"batch_size": size})
    # a name keeps what the recipe says of first weights; whatever else is given has weights of its own
    network = backbone if isinstance(backbone, str) and not is_import_path(backbone) else model
    trained = training.train(ds, network=network, recipe=own, seed=seed, device=device)
    for line in stale_norms(trained, steps=len(own.steps) or own.epochs * -(-ds.decoded_count // size)):
        told(line)
    return trained


def outputs_of(ds: DistilledSet) -> int:
    """How many numbers a network learns of an image of `ds`: its targets, or its classes."""
    return len(ds.classes) if ds.targets is None else ds.targets.shape[1]


def safe_batch_size(images: int, size: int, model: nn.Module, *, name: str, say: Say) -> int:
    """The size of mini-batches nearest to `size`, smaller ones first, none of which is a single image.

    It is `size` for a network without batch norm. Raises `UserError` for one image and a network with batch norm.
    """
    if not networks.mixes_images(model):
        return size
    if images < 2:
        raise UserError(
            f"backbone '{name}' has batch norms, which take two images at least, and there is {images}; take a "
            "backbone without, such as convnet"
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
    """A line where batch norms' running statistics are still partly their first values (mean 0, variance 1).

    After n steps with momentum m, (1 - m)^n of them are.
    """
    momenta = [norm.momentum for norm in networks.batch_norms(model).values() if norm.momentum is not None]
    share = max([(1 - momentum) ** steps for momentum in momenta], default=0.0)
    if share < STALE:
        return []
    return [
        f"after {steps} steps {100 * share:.0f} % of the running statistics of batch norms are still their first "
        "values, which probes see and fine-tuning goes on from; more epochs or smaller mini-batches make more steps"
    ]


def _silent(line: str) -> None:
    del line

"""Starting weights as artefacts: fresh draws, and networks pre-trained on real images (Wang et al. 2018, section 3.3).

A set may be made for networks that start from pre-trained weights, or from the weights of one particular network. A set
of the first kind is scored on *held-out* pre-trained networks, and a set of the second kind on that network: its digest
is in the recipe, and its weights are found in the cache, or made again and compared with the digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from dd_core import artefacts, networks
from dd_core.artefacts import Artefact, ArtefactSpec, Progress, Resources, Tensors
from dd_core.errors import UserError
from dd_core.images import Source
from dd_core.networks.origins import FRESH, PUBLISHED
from dd_core.recipe import Pretraining, Recipe, StartingPool
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Reporter
from dd_core.system.threads import computing
from dd_core.training.initial import initialised
from dd_core.training.kept_weights import kept_spec, last_linear, load_kept, require_kept, weights_digest
from dd_core.training.pretraining import pretrain


class StartingWeightsSpec(ArtefactSpec):
    """A pool of networks for images (C, H, W): part i holds the state of network i."""

    kind: ClassVar[str] = "starting-weights"
    source_option: ClassVar[str] = "pretrain_on"
    noun: ClassVar[str] = "network to start from"

    network: str = Field(description="name of the network")
    image_shape: tuple[int, int, int] = Field(description="channels, height and width of the network's images")
    classes: int = Field(description="number of the network's classes")
    weights: StartingPool = Field(description="the pool of networks: how many, from which draws, how pre-trained")

    def determining(self) -> dict[str, Any]:
        """The fields that determine a network: all but the size of the pool."""
        fields = super().determining()
        return {**fields, "weights": {**fields["weights"], "count": None}}

    def needs(self) -> dict[str, ArtefactSpec]:
        """The weights that pre-training begins with, where they came in a file."""
        pretraining = self.weights.pretraining
        return {} if pretraining is None else kept_spec(pretraining.weights)

    def sources(self) -> dict[str, str]:
        """The images to pre-train on, if any."""
        pretraining = self.weights.pretraining
        return {} if pretraining is None or not pretraining.epochs else {pretraining.source: pretraining.name}

    def parts(self) -> int:
        """One network a part."""
        return self.weights.count

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Draw network `index` from its own stream; in a pool of pre-trained networks, train it, in one thread.

        Raises `UserError` where the images to pre-train on have another shape or number of classes, and for given
        weights of another network.
        """
        weights = self.weights
        streams = Streams(weights.seed).child("held-out" if weights.held_out else "starting-weights", index)
        recipe = Recipe(network=self.network, initialisation=weights.distribution)
        model = initialised(recipe, self.image_shape, self.classes, streams=streams)
        facts: dict[str, Any] = {}
        if weights.pretraining is not None:
            model = self._begun(model, weights.pretraining, resources, streams)
        if weights.pretraining is not None and weights.pretraining.epochs:
            source = self._images(resources.sources[weights.pretraining.source])
            device = devices.resolve(resources.device)
            with computing(1):
                facts["loss"] = pretrain(model, source, weights.pretraining, streams=streams, device=device)
            facts["device"] = devices.environment(device).device
        state = {name: value.numpy() for name, value in model.cpu().state_dict().items()}
        tensors = {f"t{position}": value for position, value in enumerate(state.values())}
        return tensors, {"names": list(state), "sha256": weights_digest(state), **facts}

    def _begun(self, drawn: nn.Module, pretraining: Pretraining, resources: Any, streams: Streams) -> nn.Module:
        """The network with the weights that pre-training begins with; the last linear layer stays as drawn."""
        if pretraining.weights == FRESH:
            return drawn
        if pretraining.weights != PUBLISHED:
            load_kept(drawn, resources.artefacts["weights"], origin="pretraining.weights", head=False)
            return drawn
        channels, height, width = self.image_shape
        published = networks.build(
            self.network,
            in_channels=channels,
            classes=self.classes,
            image_size=(height, width),
            seed=streams.seed,
            pretrained=True,
        )
        head = f"{last_linear(drawn)}."
        own = {name: value for name, value in drawn.state_dict().items() if name.startswith(head)}
        networks.load_into(drawn, {**published.state_dict(), **own}, origin="pretraining.weights")
        return drawn

    def _images(self, source: Source) -> Source:
        if source.image_shape != self.image_shape or len(source.classes) != self.classes:
            theirs, ours = _form(source.image_shape, len(source.classes)), _form(self.image_shape, self.classes)
            raise UserError(f"networks for {ours} cannot be pre-trained on {source.name} ({theirs})")
        return source


def _form(image_shape: tuple[int, int, int], classes: int) -> str:
    return f"{classes} classes of {'x'.join(map(str, image_shape))} images"


def identity_of(pool: Artefact) -> str:
    """`sha256:...` of the first network of a pool, by which a recipe names that network."""
    return f"sha256:{pool.part(0)[1]['sha256']}"


def spec_of(
    recipe: Recipe, image_shape: tuple[int, int, int], classes: int, weights: StartingPool
) -> StartingWeightsSpec:
    """The spec of the pool `weights` of the recipe's network; raises `UserError` for a file that is not yet kept."""
    if weights.pretraining is not None:
        require_kept(weights.pretraining.weights_file, option="pretraining.weights")
    return StartingWeightsSpec(network=recipe.network, image_shape=image_shape, classes=classes, weights=weights)


def of_recipe(
    recipe: Recipe,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    count: int,
    seed: int = 0,
    pretrain_on: Source | None = None,
    device: str = "auto",
    workers: Workers | None = None,
    reporter: Reporter | None = None,
) -> Artefact | None:
    """The pool that networks start from which learn a set; None where they are drawn from a distribution.

    For `pretrained` a pool of `count` held-out networks, for particular weights a pool of that one network. The images
    `pretrain_on` are needed unless the pool is in the cache. Raises `UserError` for other images than the recipe names,
    and where the weights that were made here have another digest than the recipe names, as another version of torch, or
    another device, may give other weights.
    """
    if pretrain_on is not None:
        _check_meant(recipe.weights, pretrain_on)
    if recipe.weights is None:
        return None
    weights = recipe.weights
    if not recipe.for_one_network:
        weights = weights.model_copy(update={"count": count, "seed": weights.seed + seed, "held_out": True})
    spec = spec_of(recipe, image_shape, classes, weights)
    sources = () if pretrain_on is None else (pretrain_on,)
    pool = artefacts.get(spec, resources=Resources.of(sources, device=device), workers=workers, reporter=reporter)
    if recipe.for_one_network and recipe.initialisation != (identity := identity_of(pool)):
        raise UserError(
            f"the set is for a network with the weights {recipe.initialisation[:19]}..., and those made here, by this "
            f"torch on this device, are {identity[:19]}...; copy {pool.folder} from where it was distilled"
        )
    return pool


def _check_meant(weights: StartingPool | None, given: Source) -> None:
    pretraining = None if weights is None else weights.pretraining
    if pretraining is None:
        raise UserError(f"no network is pre-trained for this; leave out the images of '{given.name}' to pre-train on")
    if pretraining.source != given.fingerprint():
        raise UserError(
            f"the set is for networks pre-trained on '{pretraining.name}' (fingerprint {pretraining.source[:12]}...), "
            f"and not on '{given.name}' ({given.fingerprint()[:12]}...); give the former"
        )


def pretrained_on(source: Source, pretraining: Pretraining) -> Pretraining:
    """`pretraining` on the images of `source`."""
    return pretraining.model_copy(update={"source": source.fingerprint(), "name": source.name})

"""A pre-trained backbone as a .safetensors file, whose metadata names the network that the weights fit.

The weights of timm's own architecture load with `timm.create_model(..., checkpoint_path=FILE)`. For images up to 64 px,
our networks of timm and torchvision have other first layers (see `dd_core.networks.build`); the metadata of such a file
says so, and it loads with `load_backbone`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from dd_core import exchange, networks, store
from dd_core.config import Config, canonical, decode
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.images import InputForm
from dd_core.networks.import_paths import is_import_path
from dd_core.networks.own import Network, built, outputs_for
from dd_core.system import surroundings

FORMAT = "dd-apps backbone 1"
Side = Annotated[int, Field(ge=1, le=2048)]  # limits to the network that a hostile file can make us build
KEY, ADVICE = "dd_apps", "loads_with"  # keys of the file's metadata


class BackboneFile(Config):
    """The metadata of a file of weights."""

    format: Literal["dd-apps backbone 1"] = Field(default=FORMAT, description="format and its version")
    backbone: str = Field(description="name of the network, or its import path module:Class")
    image_shape: tuple[Side, Side, Side] = Field(description="channels, height and width of the images")
    outputs: int = Field(
        ge=1, le=65_536, description="number of outputs of the last layer, one for each target of pre-training"
    )
    mean: tuple[float, ...] = Field(description="mean of each channel that images are normalised by, of [0, 1]")
    std: tuple[float, ...] = Field(description="std of each channel that images are normalised by, of [0, 1]")
    whitened: bool = Field(default=False, description="whether images are whitened too, by the set's own whitening")
    unmodified: bool = Field(description="whether timm's own function builds the network")


@dataclass(frozen=True, eq=False)
class LoadedBackbone:
    """A backbone in evaluation mode, and the normalisation of its images; None if they need the set's whitening."""

    model: nn.Module
    form: InputForm | None
    about: BackboneFile


@surroundings.own()
def save_backbone(model: nn.Module, path: Path | str, *, backbone: str, ds: DistilledSet) -> str:
    """Write the weights of `model`, which was pre-trained on `ds`, to `path`; returns the call that loads them.

    backbone: the name by which the network was built; for a module or a function, any import path. Raises `UserError`
    for a path that does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: expected a name that ends in .safetensors")
    channels, height, width = ds.images.shape[1:]
    shape = (channels, height, width)
    about = BackboneFile(
        backbone=backbone,
        image_shape=shape,
        outputs=outputs_for(model, shape),
        mean=ds.manifest.pixels.mean,
        std=ds.manifest.pixels.std,
        whitened=ds.whitening is not None,
        unmodified=_is_unmodified(model, backbone, shape),
    )
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
    store.write_bytes(path, save(weights, {KEY: canonical(about), ADVICE: advice(about)}))
    return advice(about)


def advice(about: BackboneFile) -> str:
    """The call that loads the weights, in words."""
    library, _, model = about.backbone.partition(":")
    channels, height, width = about.image_shape
    if about.unmodified:
        return f"timm.create_model('{model}', num_classes={about.outputs}, in_chans={channels}, checkpoint_path=FILE)"
    ours = "dd_apps.transfer.load_backbone(FILE)"
    if library == "timm":
        return f"{ours}: the network begins otherwise than timm's own, for images of {height} x {width} pixels"
    return ours


@surroundings.own()
def load_backbone(path: Path | str, *, backbone: Network | None = None) -> LoadedBackbone:
    """The backbone in a file of `save_backbone`, on the CPU.

    backbone: the network as for `pretrain`, needed if it is no network of ours, since no file may make us import code.
    Raises `UserError` for a file of another kind, a damaged or hostile file, and weights that do not fit the network.
    """
    path = Path(path)
    weights, about = exchange.read_weights(path), _about(path)
    if backbone is None and is_import_path(about.backbone):
        raise UserError(f"{path}: its network '{about.backbone}' is not imported on a file's word; give the backbone")
    model = built(backbone or about.backbone, about.image_shape, outputs=about.outputs, seed=0)
    networks.load_into(model, weights, origin=str(path))
    return LoadedBackbone(model.eval(), None if about.whitened else InputForm(about.mean, about.std), about)


def _about(path: Path) -> BackboneFile:
    try:
        with store.disk_errors(path), safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except SafetensorError as error:
        raise UserError(f"{path}: no .safetensors file, as save_backbone writes: {error}") from error
    if text is None:
        raise UserError(f"{path}: does not name the network of its weights; expected a file of save_backbone")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: its metadata '{KEY}' is no JSON: {error}") from error
    return decode(BackboneFile, content, where=str(path))


def _is_unmodified(model: nn.Module, backbone: str, shape: tuple[int, int, int]) -> bool:
    """Whether timm's own function, which is not told the image size, builds the same architecture."""
    library, _, name = backbone.partition(":")
    if library != "timm":
        return False
    import timm  # an extra, and takes seconds to import

    plain = timm.create_model(name, num_classes=outputs_for(model, shape), in_chans=shape[0])
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (model, plain)]
    return repr(model) == repr(plain) and shapes[0] == shapes[1]  # strides show in the repr only

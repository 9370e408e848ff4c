"""A program's own networks: a module, a function that makes a module, or the import path of either.

A network gets the number of outputs that its task needs. A new task replaces the last linear layer; all layers before
it are the backbone of transfer learning.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dd_core import streams
from dd_core.errors import UserError
from dd_core.networks.import_paths import imported, is_import_path
from dd_core.networks.models import FeatureNetwork, build

Shape = tuple[int, int, int]
Factory = Callable[[int, int, tuple[int, int]], nn.Module]  # (in_channels, outputs, image_size)
Network = str | nn.Module | Factory


def is_own(network: Network) -> bool:
    """Whether `network` is a program's own, and not the name of one of this library's networks."""
    return not isinstance(network, str) or is_import_path(network)


def require_network(network: Any) -> None:
    """Raise `UserError` unless `network` is a name, a module, a function, or None (the recipe's network)."""
    if network is None or isinstance(network, (str, nn.Module)) or callable(network):
        return
    raise UserError(
        f"network is a {type(network).__name__}; give a name such as 'convnet', a torch.nn.Module, its class or a "
        "function that makes one out of (in_channels, outputs, image_size), or the import path 'module:Class'"
    )


def built(network: Network, image_shape: Shape, *, outputs: int, seed: int) -> nn.Module:
    """A network for images (C, H, W) with `outputs` outputs, on the CPU and in training mode.

    A network by its name or from a function has fresh weights, drawn by `seed`. A module is copied with its weights;
    where it has another number of outputs, its last linear layer is drawn afresh. Equal arguments give equal weights,
    and torch's global generator is left as it was. Raises `UserError` for an unknown name and for a network that does
    not give (1, outputs) for one image.
    """
    if isinstance(network, str) and is_import_path(network):
        network = imported(network)
    channels, height, width = image_shape
    if isinstance(network, str):
        return build(network, in_channels=channels, classes=outputs, image_size=(height, width), seed=seed)
    if isinstance(network, nn.Module):
        model = copy.deepcopy(network).cpu()
        if _width(model, image_shape, name_of(network)) != outputs:
            model = with_outputs(model, outputs, seed=seed)
    else:
        model = _called(network, image_shape, outputs=outputs, seed=seed)
    if (width := _width(model, image_shape, name_of(network))) != outputs:
        raise UserError(f"network '{name_of(network)}' gives {width} outputs for an image, and must give {outputs}")
    return model.train()


def name_of(network: Network) -> str:
    """The name of a network for messages and tables."""
    if isinstance(network, str):
        return network
    if isinstance(network, nn.Module):
        return type(network).__name__
    return getattr(network, "__name__", type(network).__name__)


def outputs_for(model: nn.Module, image_shape: Shape) -> int:
    """How many outputs `model` has for an image (C, H, W); raises `UserError` for a size that it cannot take."""
    return _width(model, image_shape, name_of(model))


def with_outputs(model: nn.Module, outputs: int, *, seed: int) -> nn.Module:
    """`model` with a fresh last linear layer of `outputs` outputs, drawn by `seed`; changed in place.

    Raises `UserError` for a module without a linear layer.
    """
    with streams.seeded(seed, "last-layer"):
        if isinstance(model, FeatureNetwork):
            model.classifier = nn.Linear(model.classifier.in_features, outputs)
        elif hasattr(model, "reset_classifier"):  # timm's networks
            timm_model: Any = model
            timm_model.reset_classifier(outputs)
        else:
            path, last = _last_linear(model)
            head = nn.Linear(last.in_features, outputs, bias=len([*last.parameters()]) == 2)
            if path:
                model.set_submodule(path, head)
            else:
                model = head
    return model


def _last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    linears = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise UserError(
            f"network '{type(model).__name__}' has no linear layer, so it has no last layer that a task can replace; "
            "end the network with nn.Linear"
        )
    return linears[-1]


def _called(factory: Factory, image_shape: Shape, *, outputs: int, seed: int) -> nn.Module:
    channels, height, width = image_shape
    with streams.seeded(seed, "network"):
        try:
            model: Any = factory(channels, outputs, (height, width))
        except Exception as error:  # a user's code may raise anything
            raise UserError(
                f"network '{name_of(factory)}' could not be made by (in_channels, outputs, image_size) = "
                f"({channels}, {outputs}, ({height}, {width})): {_line(error)}"
            ) from error
    if not isinstance(model, nn.Module):
        raise UserError(f"network '{name_of(factory)}' gives a {type(model).__name__}, not a torch.nn.Module")
    return model.cpu()


@torch.no_grad()
def _width(model: nn.Module, image_shape: Shape, name: str) -> int:
    """How many outputs `model` has for an image; the model's state and torch's generator stay as they were."""
    channels, height, width = image_shape
    training = model.training
    try:
        with streams.seeded(0, "width"):
            output = model.eval()(torch.zeros(1, channels, height, width, device=_device_of(model)))
    except Exception as error:  # a user's code may raise anything
        raise UserError(
            f"network '{name}' cannot take images of {channels} x {height} x {width} pixels: {_line(error)}; take a "
            "network for this size, or images of another size"
        ) from error
    finally:
        model.train(training)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 1:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"network '{name}' gives {given} for one image, and must give (1, outputs)")
    return output.shape[1]


def _device_of(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__

"""Networks by name: the literature's ConvNet, LeNet and AlexCifarNet, timm's, torchvision's and other packages'.

The ConvNet is that of Gidaris and Komodakis 2018, in the form of Zhao, Mopuri and Bilen 2021 and later papers; LeNet
and AlexCifarNet are those of Wang et al. 2018. `names` defines the spelling. Weights are fresh, unless `pretrained`
asks for a library's published weights.
"""

from __future__ import annotations

from math import gcd
from typing import Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dd_core import streams
from dd_core.errors import UserError, nearest
from dd_core.images import Source
from dd_core.networks.bn_vit import with_batch_norms
from dd_core.networks.kernels import AveragePool, Convolution, InstanceNorm
from dd_core.networks.names import (
    GROUPS,
    NO_DROPOUT,
    ConvNetSpec,
    family,
    first_size,
    others_by_name,
    parse_convnet,
    parse_resnet,
    usual_depth,
)
from dd_core.networks.resnets import STAGES, resnet_layers

SMALL_IMAGE = 64  # pixels; up to this side an ImageNet network's strided stem would discard most of the image
VIT_TINY = "vit_tiny_patch16_224"
OFFLINE = "; without a network connection, put the file of weights where its library looks: below TORCH_HOME or HF_HOME"
PATCHES = 8  # patches along each side of a small image for a transformer


class FeatureNetwork(nn.Module):
    """Features, and one linear layer on top of the features: the form of all our own networks."""

    def __init__(self, features: nn.Sequential, *, width: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """The logits of K classes."""
        return self.classifier(self.features(images))


def build(
    name: str,
    *,
    in_channels: int,
    classes: int,
    image_size: tuple[int, int],
    seed: int,
    stream: str = "network",
    step: int = 0,
    pretrained: bool = False,
) -> nn.Module:
    """A freshly initialised network on the CPU, in training mode; equal arguments give equal weights.

    The weights come from PyTorch's (or the library's) own initialisation under (seed, stream, step); the global
    generator is not used. For images up to 64 px, networks of timm and torchvision get a small-image stem: a strided
    first convolution becomes 3x3 with stride 1, and the first max-pooling is removed; a vision transformer gets smaller
    patches instead. pretrained: load the library's published weights, which are downloaded once; for another number of
    classes the last layer is fresh. Raises `UserError` for an unknown name, for images (H, W) that the network cannot
    take, and where timm is not installed; with `pretrained` also for a network without published weights, for small
    images, and where the download fails.
    """
    kind = family(name)
    if pretrained:
        _require_published(name, kind, image_size)
    with streams.seeded(seed, stream, step):
        if kind == "convnet":
            return _convnet(name, in_channels=in_channels, classes=classes, image_size=image_size)
        if kind == "lenet":
            return _lenet(in_channels=in_channels, classes=classes, image_size=image_size)
        if kind == "alexcifarnet":
            return _alexcifarnet(in_channels=in_channels, classes=classes, image_size=image_size)
        if kind == "resnet":
            return _resnet(name, in_channels=in_channels, classes=classes)
        shape: _Shape = {"in_channels": in_channels, "classes": classes, "image_size": image_size}
        return _from_library(name, shape, pretrained=pretrained)


def for_source(name: str, source: Source, *, seed: int, stream: str = "network", step: int = 0) -> nn.Module:
    """`build` for the channels, classes and image size of a source."""
    channels, height, width = source.image_shape
    return build(
        name,
        in_channels=channels,
        classes=len(source.classes),
        image_size=(height, width),
        seed=seed,
        stream=stream,
        step=step,
    )


def embed(network: nn.Module, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
    """The inputs of the network's last linear layer, differentiable.

    Our own networks and timm's give these features directly; for any other module they are the input of its last
    `nn.Linear`. Raises `UserError` for a network without a linear layer.
    """
    if isinstance(network, FeatureNetwork):
        return network.features(images)
    if hasattr(network, "forward_features") and hasattr(network, "forward_head"):
        timm_model: Any = network
        return timm_model.forward_head(timm_model.forward_features(images), pre_logits=True).flatten(1)
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise UserError(f"{type(network).__name__} has no linear layer, so it has no features; take another network")
    seen: list[Tensor] = []
    handle = linears[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        network(images)
    finally:
        handle.remove()
    return seen[-1].flatten(1)


def initialise_xavier(network: nn.Module, *, generator: torch.Generator) -> None:
    """Redraw all weights of convolutions and linear layers, Xavier normal with gain 1, with zero biases.

    Normalisation layers go back to scale 1 and shift 0. `generator` is a CPU generator, wherever the network
    is. The initialisation of Wang et al. 2018.
    """
    for module in network.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(module, nn.Conv2d | nn.Linear):
            drawn = nn.init.xavier_normal_(torch.empty(module.weight.shape), generator=generator)
            with torch.no_grad():
                module.weight.copy_(drawn)
        elif "Norm" in type(module).__name__ and isinstance(weight, Tensor):
            nn.init.ones_(weight)
        else:
            continue
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)


def _convnet(name: str, *, in_channels: int, classes: int, image_size: tuple[int, int]) -> FeatureNetwork:
    """DEPTH x [3x3 convolution, norm, activation, 2/2 pooling] and one linear layer."""
    spec, (height, width) = parse_convnet(name), first_size(in_channels, image_size)
    grown = (height, width) != tuple(image_size)
    depth = spec.depth or usual_depth((height, width))
    _check_depth(name, spec, depth=depth, height=height, width=width)
    layers: list[nn.Module] = []
    for index in range(depth):
        channels, wide = spec.width_of(index - 1) if index else in_channels, spec.width_of(index)
        layers.append(Convolution(channels, wide, 3, padding=3 if grown and not index else 1))
        layers += _norm(spec.norm, (wide, height, width)) + _activation(spec) + _pool(spec)
        if spec.pool != "none":
            height, width = height // 2, width // 2
    features = nn.Sequential(*layers, nn.Flatten())
    return FeatureNetwork(features, width=spec.width_of(depth - 1) * height * width, classes=classes)


def _check_depth(name: str, spec: ConvNetSpec, *, depth: int, height: int, width: int) -> None:
    """Raise `UserError` where pooling leaves no pixel, and for an instance norm of one pixel, which is always 0."""
    if spec.pool != "none":
        largest = min(height, width).bit_length() - 1
    elif spec.norm == "instance" and height * width == 1:
        largest = 0
    else:
        return
    if depth > largest:
        advice = f"the largest depth that works is {largest}" if largest else "use larger images"
        raise UserError(f"network '{name}' is too deep for images of {height}x{width} pixels: {advice}")


def _norm(kind: str, shape: tuple[int, int, int]) -> list[nn.Module]:
    """The norm of features (C, H, W)."""
    if kind == "none":
        return []
    if kind == "batch":
        return [nn.BatchNorm2d(shape[0])]
    if kind == "layer":
        return [nn.LayerNorm([*shape])]
    if kind == "instance":
        return [InstanceNorm(shape[0])]
    return [nn.GroupNorm(GROUPS, shape[0])]


def _activation(spec: ConvNetSpec) -> list[nn.Module]:
    return [{"relu": nn.ReLU, "leakyrelu": nn.LeakyReLU, "sigmoid": nn.Sigmoid}[spec.activation]()]


def _pool(spec: ConvNetSpec) -> list[nn.Module]:
    if spec.pool == "none":
        return []
    return [AveragePool() if spec.pool == "avg" else nn.MaxPool2d(2)]


def _lenet(*, in_channels: int, classes: int, image_size: tuple[int, int]) -> FeatureNetwork:
    """LeNet, at 28 and 32 px as in Wang et al. 2018, where the second pooling leaves 5x5.

    Other sizes change only padding and the first linear layer: the first convolution is padded by 2 up to 28 px, and
    the second one too below 28 px, so that 8 px images (scikit-learn's digits) leave 2x2.
    """
    smallest = min(image_size)
    if smallest < 4:
        raise UserError(f"network 'lenet' needs images of at least 4x4 pixels, not {_size(image_size)}")
    first, second = (2 if smallest <= 28 else 0), (2 if smallest < 28 else 0)
    height, width = (((side + 2 * first - 4) // 2 + 2 * second - 4) // 2 for side in image_size)
    features = nn.Sequential(
        nn.Conv2d(in_channels, 6, 5, padding=first),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, padding=second),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * height * width, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
    )
    return FeatureNetwork(features, width=84, classes=classes)


def _alexcifarnet(*, in_channels: int, classes: int, image_size: tuple[int, int]) -> FeatureNetwork:
    """AlexCifarNet of Wang et al. 2018; sizes other than 32 px change only the first linear layer."""
    height, width = ((side + 3) // 4 for side in image_size)
    features = nn.Sequential(
        nn.Conv2d(in_channels, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1),
        nn.Conv2d(64, 64, 5, padding=2),
        nn.ReLU(),
        nn.LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Flatten(),
        nn.Linear(64 * height * width, 384),
        nn.ReLU(),
        nn.Linear(384, 192),
        nn.ReLU(),
    )
    return FeatureNetwork(features, width=192, classes=classes)


def _resnet(name: str, *, in_channels: int, classes: int) -> FeatureNetwork:
    """The small-image ResNet for images of any size; features are means over the pixels of the last stage."""
    blocks, width = parse_resnet(name)
    features = resnet_layers(blocks, width=width, in_channels=in_channels)
    return FeatureNetwork(features, width=width << (STAGES - 1), classes=classes)


class _Shape(TypedDict):
    in_channels: int
    classes: int
    image_size: tuple[int, int]


def _from_library(name: str, shape: _Shape, *, pretrained: bool) -> nn.Module:
    library, colon, model = name.removesuffix(NO_DROPOUT).partition(":")
    try:
        if name == "bn-vit-tiny":
            network = with_batch_norms(_from_timm(VIT_TINY, shape, pretrained=False))
        elif colon:
            create = _from_timm if library == "timm" else _from_torchvision
            network = create(model, shape, pretrained=pretrained)
            if max(shape["image_size"]) <= SMALL_IMAGE and not _cuts_patches(network):
                _shrink_stem(network)
        else:
            network = others_by_name()[name].load()(**shape)
        if name.endswith(NO_DROPOUT):
            _stop_dropout(network)
        _check_forward(network, shape)
    except UserError:
        raise
    except Exception as error:  # another package's code may raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if pretrained:
            advice = OFFLINE if isinstance(error, OSError) else ""
            raise UserError(f"the weights of network '{name}' could not be loaded: {reason}{advice}") from error
        images = f"{shape['in_channels']} x {_size(shape['image_size'])}"
        raise UserError(f"network '{name}' cannot take images of {images} pixels: {reason}") from error
    return network.train()


def _stop_dropout(network: nn.Module) -> None:
    """Replace dropout and stochastic depth by identities; all weights keep their names."""
    for path, module in list(network.named_modules()):
        if type(module).__name__.startswith(("Drop", "StochasticDepth")):
            network.set_submodule(path, nn.Identity())


def _require_published(name: str, kind: str, image_size: tuple[int, int]) -> None:
    if kind not in ("timm", "torchvision"):
        raise UserError(
            f"network '{name}' has no published weights; take one of timm or torchvision, such as torchvision:resnet18"
        )
    if max(image_size) <= SMALL_IMAGE:
        raise UserError(
            f"published weights of '{name}' need images of more than {SMALL_IMAGE} pixels a side; for smaller ones the "
            "network has another first layer; use larger images, or weights 'fresh'"
        )


def _from_timm(model: str, shape: _Shape, *, pretrained: bool) -> nn.Module:
    try:
        import timm  # an extra
    except ImportError as error:
        raise UserError(f"network 'timm:{model}' needs timm: pip install 'dd-apps[timm]'") from error
    _check_known("timm", model.partition(".")[0], timm.list_models())  # the part after a dot names weights
    image_size = shape["image_size"]
    sizes: list[dict[str, Any]] = [{"img_size": image_size}, {}]
    if max(image_size) <= SMALL_IMAGE:
        sizes.insert(0, {"img_size": image_size, "patch_size": _patch_size(image_size)})
    options: dict[str, Any] = {"num_classes": shape["classes"], "in_chans": shape["in_channels"]}
    if pretrained:
        options["pretrained"] = True
    for size in sizes[:-1]:
        try:
            return timm.create_model(model, **options, **size)
        except TypeError:  # the model does not know a keyword of `size`
            continue
    return timm.create_model(model, **options)


def _from_torchvision(model: str, shape: _Shape, *, pretrained: bool) -> nn.Module:
    from torchvision import models  # late: it takes seconds to import, and our own networks do not need it

    _check_known("torchvision", model, models.list_models(module=models))
    image_size = shape["image_size"]
    options: dict[str, Any] = {} if pretrained else {"num_classes": shape["classes"]}
    if model.startswith("vit_") and image_size[0] == image_size[1]:
        options["image_size"] = image_size[0]
    if model in ("googlenet", "inception_v3"):  # their auxiliary heads would make them return tuples
        if pretrained:
            raise UserError(
                f"published weights of 'torchvision:{model}' are for a network that normalises its inputs again; take "
                "timm:inception_v3"
            )
        options |= {"aux_logits": False, "init_weights": True}
    network = models.get_model(model, weights="DEFAULT" if pretrained else None, **options)
    path, first = _first(network, nn.Conv2d)
    if first.in_channels != shape["in_channels"]:
        if pretrained:
            raise UserError(
                f"published weights of 'torchvision:{model}' are for images of 3 channels, not {shape['in_channels']}"
            )
        network.set_submodule(path, _like(first, in_channels=shape["in_channels"]))
    if pretrained:
        _fit_head(network, shape["classes"])
    return network


def _fit_head(network: nn.Module, classes: int) -> None:
    """Replace the last linear layer by a fresh one, where the number of classes differs."""
    linears = {path: module for path, module in network.named_modules() if isinstance(module, nn.Linear)}
    path, head = next(reversed(linears.items()), ("", None))
    if head is not None and head.out_features != classes:
        network.set_submodule(path, nn.Linear(head.in_features, classes))


def _check_known(library: str, model: str, known: list[str]) -> None:
    if model not in known:  # too many to list, as `unknown_name` would
        hint = nearest(model, known) or f" ({library} knows {len(known)} models, such as '{known[-1]}')"
        raise UserError(f"unknown {library} model '{model}'{hint}")


def _cuts_patches(network: nn.Module) -> bool:
    """Whether the first convolution cuts the image into patches, as in transformers and mixers of both libraries."""
    if hasattr(network, "patch_embed") or hasattr(network, "conv_proj"):
        return True
    return any(type(module).__name__ == "PatchEmbed" for module in network.modules())


def _patch_size(image_size: tuple[int, int]) -> int:
    """The divisor of both sides that gives the number of patches on the shorter side nearest to `PATCHES`."""
    side = gcd(*image_size)
    divisors = [size for size in range(1, side + 1) if side % size == 0]
    return min(divisors, key=lambda size: abs(min(image_size) / size - PATCHES))


def _shrink_stem(network: nn.Module) -> None:
    """Replace a strided first convolution by one of 3x3 with stride 1, and remove the first max-pooling."""
    path, first = _first(network, nn.Conv2d)
    if max(first.stride) == 1:
        return
    network.set_submodule(path, _like(first, kernel=3, stride=1, padding=1))
    if any(isinstance(module, nn.MaxPool2d) for module in network.modules()):
        network.set_submodule(_first(network, nn.MaxPool2d)[0], nn.Identity())


def _first(network: nn.Module, kind: type) -> tuple[str, Any]:
    return next((path, module) for path, module in network.named_modules() if isinstance(module, kind))


def _like(
    conv: nn.Conv2d,
    *,
    in_channels: int | None = None,
    kernel: int | None = None,
    stride: int | None = None,
    padding: int | None = None,
) -> nn.Conv2d:
    """A new convolution like `conv`, except for given arguments, with PyTorch's default initialisation."""
    return nn.Conv2d(
        conv.in_channels if in_channels is None else in_channels,
        conv.out_channels,
        conv.kernel_size if kernel is None else kernel,  # pyright: ignore[reportArgumentType]
        stride=conv.stride if stride is None else stride,  # pyright: ignore[reportArgumentType]
        padding=conv.padding if padding is None else padding,  # pyright: ignore[reportArgumentType]
        bias=conv.bias is not None,
    )


def _check_forward(network: nn.Module, shape: _Shape) -> None:
    classes = shape["classes"]
    with torch.no_grad():
        logits = network.eval()(torch.zeros(1, shape["in_channels"], *shape["image_size"]))
    if not isinstance(logits, Tensor) or logits.shape != (1, classes):
        output = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network returns {output} for one image instead of (1, {classes})")


def _size(image_size: tuple[int, int]) -> str:
    return f"{image_size[0]} x {image_size[1]}"

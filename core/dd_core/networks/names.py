"""The names of networks that a user can type, and what they mean; imports no torch.

A ConvNet is spelled `convnet`, then perhaps its depth, then any of the tokens below, in any order and separated
by dashes: `convnet`, `convnet-3`, `convnet-4-w64-batchnorm`, `convnet-2-nopool-leakyrelu`. Everything else is a
fixed word or a library's name followed by that library's own model name: `timm:resnet18`, `torchvision:vgg11`.
Another package adds a network as an entry point in the group `dd_core.networks`: a name, and a function with the
arguments (in_channels, classes, image_size) that makes the network, best a `FeatureNetwork`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dd_core.errors import UserError, nearest, unknown_name
from dd_core.lazy import Offer, offers

NETWORKS = {
    "convnet": "the literature's ConvNet with its depth for the image: 2 below 28 px, 3 to 32, 4 to 64, 5 to 128, ...",
    "convnet-3": "the literature's ConvNet: 3 blocks, 128 wide, instance norm, relu, average pooling (32 px)",
    "convnet-4": "ConvNet with 4 blocks (64 px); any depth works while the image is large enough",
    "convnet-3-w32": "ConvNet, 32 wide; w16, w64, ... likewise",
    "convnet-3-growing": "ConvNet whose width doubles in each block: 128, 256, 512 (KRR-ST and MKDT)",
    "convnet-3-batchnorm": "ConvNet with another norm: instancenorm (default), batchnorm, layernorm, groupnorm, nonorm",
    "convnet-3-leakyrelu": "ConvNet with another activation: relu (default), leakyrelu, sigmoid",
    "convnet-3-maxpool": "ConvNet with another pooling: avgpool (default), maxpool, nopool",
    "lenet": "LeNet with relu: 6 and 16 convolutions of 5x5, then 120 and 84 units",
    "alexcifarnet": "AlexNet for CIFAR: two 5x5 convolutions of 64, local response norm, 384 and 192 units",
    "resnet-8": "ResNet for small images (He et al. 2016): 16 wide, batch norm; resnet-14, resnet-20, ... (6n + 2)",
    "resnet-8-w32": "ResNet for small images, 32 wide; any width",
    "bn-vit-tiny": "timm's ViT-Tiny with batch norms, over images and tokens, instead of layer norms (Yao et al. 2021)",
    "timm:NAME": "any timm image classifier, from scratch: timm:resnet18, timm:vit_tiny_patch16_224",
    "torchvision:NAME": "any torchvision image classifier, from scratch: torchvision:vgg11",
    "torchvision:alexnet-nodropout": "a timm or torchvision network without dropout, so that it can be unrolled",
}

FAMILIES = ("convnet", "lenet", "alexcifarnet", "resnet", "bn-vit-tiny", "timm", "torchvision", "other")

TOKENS: dict[str, tuple[str, str | int]] = {
    "growing": ("growth", 2),
    "nonorm": ("norm", "none"),
    "batchnorm": ("norm", "batch"),
    "layernorm": ("norm", "layer"),
    "instancenorm": ("norm", "instance"),
    "groupnorm": ("norm", "group"),
    "relu": ("activation", "relu"),
    "leakyrelu": ("activation", "leakyrelu"),
    "sigmoid": ("activation", "sigmoid"),
    "avgpool": ("pool", "avg"),
    "maxpool": ("pool", "max"),
    "nopool": ("pool", "none"),
}

# names of torchvision's classifiers, and of those classifiers that timm has by the same name
_TORCHVISION = re.compile(
    r"alexnet|convnext_(tiny|small|base|large)|densenet\d{3}|efficientnet_(b\d|v2_[sml])|googlenet|inception_v3|maxvit_t"
    r"|mnasnet\d_\d+|mobilenet_v(2|3_\w+)|regnet_[xy]_\w+|resnet(18|34|50|101|152)|resnext\d+_\d+x\dd|shufflenet_\w+"
    r"|squeezenet1_[01]|swin_(v2_)?[bst]|vgg1[1369](_bn)?|vit_[bhl]_\d\d|wide_resnet\d+_2"
)
_TIMMS_TOO = re.compile(r"convnext|densenet|efficientnet_b|inception|resne|vgg|wide_resnet")
# how the names of timm's best known families begin
_TIMM = re.compile(
    r"(beit|cait|coat|convnext|crossvit|deit|densenet|dla|dpn|ecaresnet|edgenext|efficientformer|efficientnet|eva|fastvit"
    r"|ghostnet|hrnet|inception|levit|maxvit|mixer|mobilenetv|mobilevit|nfnet|poolformer|regnet|repvgg|res2net|resnest"
    r"|resnet|resnext|seresne|swin|tf_|tiny_vit|vgg|vit_|wide_resnet|xception|xcit)\w"
)

NO_DROPOUT = "-nodropout"  # suffix of a library's network whose dropout is removed
RESNET_WIDTH = 16  # He et al. 2016
GROUPS = 4  # groups of the group norm, as in the literature


@dataclass(frozen=True)
class ConvNetSpec:
    """The architecture that the name of a ConvNet spells."""

    depth: int | None  # None: the literature's depth for the image size
    width: int = 128
    norm: str = "instance"
    activation: str = "relu"
    pool: str = "avg"
    growth: int = 1  # how many times as wide a block is as the one before it

    def width_of(self, block: int) -> int:
        """Output channels of a block, counted from 0."""
        return self.width * self.growth**block


def usual_depth(image_size: tuple[int, int]) -> int:
    """The ConvNet depth of the literature: 3 for 32 px, one more for each doubling, and 2 below 28 px."""
    side = min(image_size)
    return 2 if side < 28 else max(3, side.bit_length() - 3 + (side.bit_count() > 1))


def first_size(in_channels: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of the first convolution's output: that of the image, but 32 x 32 for grey images of 28 x 28.

    As in the literature, MNIST's images are padded to 32 px.
    """
    return (32, 32) if in_channels == 1 and image_size == (28, 28) else image_size


def largest_depth(in_channels: int, image_size: tuple[int, int]) -> int:
    """The largest number of a ConvNet's blocks with pooling: how often the image can be halved."""
    return min(first_size(in_channels, image_size)).bit_length() - 1


def available() -> list[tuple[str, str]]:
    """Each name, or pattern of names, with its one-line meaning, for `dd-apps list networks`."""
    others = others_by_name().items()
    return [*NETWORKS.items(), *((name, f"a network of {point.module}") for name, point in others)]


def others_by_name() -> dict[str, Offer]:
    """The networks of other packages, not yet imported."""
    return offers("dd_core.networks")


def family(name: str) -> str:
    """The family of `name`, one of `FAMILIES`, after checking all that can be checked without torch.

    Raises `UserError` naming the word that is wrong. Whether timm or torchvision has the model is checked
    when the network is built.
    """
    library, colon, model = name.partition(":")
    if colon and library in ("timm", "torchvision"):
        if not model:
            raise UserError(f"network '{name}' names no model; type for example '{library}:resnet18'")
        return library
    first = name.partition("-")[0]
    if first == "convnet":
        parse_convnet(name)
        return first
    if first == "resnet":
        parse_resnet(name)
        return first
    if name in ("lenet", "alexcifarnet", "bn-vit-tiny"):
        return name
    others = others_by_name()
    if name in others:
        return "other"
    if libraries := of_libraries(name):
        raise UserError(f"unknown network '{name}'; did you mean {libraries}?")
    raise unknown_name("network", name, (*NETWORKS, *others))


def of_libraries(name: str) -> str:
    """Names by which libraries seem to have `name`, such as `'torchvision:vgg11' or 'timm:vgg11'`; "" for none."""
    model = name.lower()
    if _TORCHVISION.fullmatch(model):
        libraries = ["torchvision", "timm"] if _TIMMS_TOO.match(model) else ["torchvision"]
    else:
        libraries = ["timm"] if _TIMM.match(model) else []
    return " or ".join(f"'{library}:{model}'" for library in libraries)


def parse_convnet(name: str) -> ConvNetSpec:
    """The spec that `convnet[-DEPTH][-TOKEN]...` spells; raises `UserError` naming the token that is wrong."""
    _, *words = name.split("-")
    depth = int(words.pop(0)) if words and _is_positive(words[0]) else None
    fields: dict[str, int | str] = {}
    for word in words:
        field, value = _token(word)
        if field in fields:
            raise UserError(f"network '{name}' gives its {field} twice: '{word}' is one too many")
        fields[field] = value
    spec = ConvNetSpec(
        depth=depth,
        width=int(fields.get("width", ConvNetSpec.width)),
        norm=str(fields.get("norm", ConvNetSpec.norm)),
        activation=str(fields.get("activation", ConvNetSpec.activation)),
        pool=str(fields.get("pool", ConvNetSpec.pool)),
        growth=int(fields.get("growth", ConvNetSpec.growth)),
    )
    if spec.norm == "group" and spec.width % GROUPS:
        raise UserError(f"network '{name}': the width must be a multiple of groupnorm's {GROUPS}")
    return spec


def parse_resnet(name: str) -> tuple[int, int]:
    """(blocks a stage, width) of `resnet-DEPTH[-wWIDTH]`; raises `UserError` naming the word that is wrong."""
    depth, *words = name.split("-")[1:] or [""]
    if not _is_positive(depth) or int(depth) < 8 or int(depth) % 6 != 2:
        other = of_libraries(f"resnet{depth}")
        raise UserError(
            f"network '{name}': a resnet has 6n + 2 layers, as in resnet-8, resnet-20 and resnet-32"
            + (f"; ImageNet's is {other}" if other else "")
        )
    for word in words[1:]:
        raise UserError(f"network '{name}': '{word}' is one word too many, after a resnet's depth and width")
    width = words[0] if words else f"w{RESNET_WIDTH}"
    if width[:1] != "w" or not _is_positive(width[1:]):
        raise UserError(f"network '{name}': '{width}' is no width; type for example resnet-{depth}-w32")
    return int(depth) // 6, int(width[1:])


def _token(word: str) -> tuple[str, int | str]:
    if word in TOKENS:
        return TOKENS[word]
    if word[:1] == "w" and _is_positive(word[1:]):
        return "width", int(word[1:])
    known = ", ".join(["w32", *TOKENS])
    raise UserError(f"unknown token '{word}' in a convnet's name{nearest(word, TOKENS)} (known: {known})")


def _is_positive(word: str) -> bool:
    return word.isascii() and word.isdigit() and int(word) > 0

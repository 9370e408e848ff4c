"""The small-image ResNet of He, Zhang, Ren and Sun 2016, section 4.2, built from torchvision's blocks."""

from __future__ import annotations

from torch import nn

STAGES = 3


def resnet_layers(blocks: int, *, width: int, in_channels: int) -> nn.Sequential:
    """The layers up to the features (4 width each): a 3x3 stem and three stages of `blocks` blocks, w, 2w and 4w wide.

    Every stage but the first halves the image, and its first block's shortcut is a 1x1 convolution (option B).
    """
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    for stage in range(STAGES):
        for block in range(blocks):
            layers.append(_block(width << max(0, stage - (block == 0)), width << stage))
    features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's ResNets
    return features


def _block(before: int, after: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock  # takes seconds to import, and other networks do without

    if before == after:
        return BasicBlock(before, after)
    shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after))
    return BasicBlock(before, after, stride=2, downsample=shortcut)

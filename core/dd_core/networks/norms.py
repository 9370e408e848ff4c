"""The batch norms of a network: listing, reading and synchronising them."""

from __future__ import annotations

from torch import Tensor, nn

from dd_core.errors import UserError
from dd_core.networks.bn_vit import SyncTokenBatchNorm, TokenBatchNorm
from dd_core.networks.names import TOKENS

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def batch_norms(network: nn.Module) -> dict[str, BatchNorm]:
    """The batch norms of `network` by name, in the order of its definition."""
    return {name: module for name, module in network.named_modules() if isinstance(module, BatchNorm)}


def mixes_images(network: nn.Module) -> bool:
    """Whether `network`'s outputs in training mode depend on other images of the batch, as with batch norms."""
    return bool(batch_norms(network))


def norm_inputs(norm: nn.Module, inputs: Tensor) -> Tensor:
    """The inputs of a batch norm as (M, C, ...): tokens (B, T, C) of a `TokenBatchNorm` become (B T, C)."""
    return inputs.flatten(0, -2) if isinstance(norm, TokenBatchNorm) else inputs


def synchronised(network: nn.Module) -> nn.Module:
    """`network` with batch norms whose statistics are over all processes that train it, on GPUs; names are unchanged.

    torch's own conversion alone would take the tokens of a vision transformer for channels.
    """
    tokens = [name for name, norm in batch_norms(network).items() if isinstance(norm, TokenBatchNorm)]
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for name in tokens:
        norm = network.get_submodule(name)
        assert isinstance(norm, nn.SyncBatchNorm)
        network.set_submodule(name, SyncTokenBatchNorm.of(norm))
    return network


def require_batch_norms(network: nn.Module, name: str) -> None:
    """Raise `UserError` unless the network called `name` has batch norms, all with running statistics."""
    norms = batch_norms(network)
    if not norms:
        raise UserError(
            f"network '{name}' has no batch norm, whose statistics SRe2L matches; take a network with some, such as "
            f"{_similar(network, name)}"
        )
    for path, norm in norms.items():
        if norm.running_mean is None or norm.running_var is None:
            raise UserError(
                f"network '{name}': its batch norm '{path}' keeps no mean and variance for SRe2L to match; take another"
            )


def _similar(network: nn.Module, name: str) -> str:
    """Names, as text, of networks with batch norms that are similar to the network called `name`."""
    if name.partition("-")[0] == "convnet":
        words = [word for word in name.split("-") if TOKENS.get(word, ("",))[0] != "norm"]
        return "-".join([*words, "batchnorm"])
    transformer = any(isinstance(module, nn.LayerNorm) for module in network.modules())
    return "bn-vit-tiny" if transformer else "convnet-3-batchnorm, resnet-8 or torchvision:resnet18"

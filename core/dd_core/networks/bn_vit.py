"""A vision transformer with batch norms, made from timm's: BN-ViT (Yao et al., ICCV workshops 2021).

Batch norms, over images and tokens, replace all layer norms. Each feed-forward part has one more, between its first
layer and its activation; without it training is unstable.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


def _tokens(input: Tensor) -> Tensor:
    """(B T, C): the tokens of all images as one batch."""
    return input.flatten(0, -2)


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm of the channels of tokens: its statistics are over images and tokens."""

    def forward(self, input: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """The tokens, normalised by channel."""
        return super().forward(_tokens(input)).view(input.shape)


class SyncTokenBatchNorm(nn.SyncBatchNorm):
    """A `TokenBatchNorm` whose statistics are over all processes that train together."""

    def forward(self, input: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """The tokens, normalised by channel."""
        return super().forward(_tokens(input)).view(input.shape)

    @staticmethod
    def of(norm: nn.SyncBatchNorm) -> SyncTokenBatchNorm:
        """A synchronised norm of tokens that shares the parameters and buffers of `norm`."""
        tokens = SyncTokenBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
            setattr(tokens, name, tensor)
        return tokens.train(norm.training)


def with_batch_norms(transformer: nn.Module) -> nn.Module:
    """Replace the norms of timm's `VisionTransformer`, in place; the batch norms begin at scale 1 and shift 0."""
    for path, module in [*transformer.named_modules()]:
        if isinstance(module, nn.LayerNorm):
            transformer.set_submodule(path, TokenBatchNorm(module.normalized_shape[0]))
    blocks: Any = transformer.blocks
    for block in blocks:
        block.mlp.act = nn.Sequential(TokenBatchNorm(block.mlp.fc1.out_features), block.mlp.act)
    return transformer

"""A vision transformer with batch norms: BN-ViT (Yao et al., ICCV workshops 2021), on timm's.

Batch norm takes the place of every layer norm, over images and tokens, and one more stands between the first layer and
the activation of each feed-forward part, without which training is unstable.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


def _tokens(input: Tensor) -> Tensor:
    """(B T, C): those of all images as one batch."""
    return input.flatten(0, -2)


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm of the channels of tokens: its statistics are over images and tokens."""

    def forward(self, input: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Normalised."""
        return super().forward(_tokens(input)).view(input.shape)


class SyncTokenBatchNorm(nn.SyncBatchNorm):
    """A `TokenBatchNorm` whose statistics are over all processes that train together."""

    def forward(self, input: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Normalised."""
        return super().forward(_tokens(input)).view(input.shape)

    @staticmethod
    def of(norm: nn.SyncBatchNorm) -> SyncTokenBatchNorm:
        """With the parameters and buffers of another one, which it shares."""
        tokens = SyncTokenBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
            setattr(tokens, name, tensor)
        return tokens.train(norm.training)


def with_batch_norms(transformer: nn.Module) -> nn.Module:
    """timm's `VisionTransformer` with batch norms, in place; the new ones begin at scale 1 and shift 0."""
    for path, module in [*transformer.named_modules()]:
        if isinstance(module, nn.LayerNorm):
            transformer.set_submodule(path, TokenBatchNorm(module.normalized_shape[0]))
    blocks: Any = transformer.blocks
    for block in blocks:
        block.mlp.act = nn.Sequential(TokenBatchNorm(block.mlp.fc1.out_features), block.mlp.act)
    return transformer

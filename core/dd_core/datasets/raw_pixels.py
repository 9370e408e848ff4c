"""Raw images as people hand them to Avalanche, to uint8 (C, H, W) and back into the very same form.

A replayed image must go through the transforms of the experience's own images exactly once. So what is
stored is what lies *before* those transforms, and it comes back as what they expect: a PIL image, an array or
a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dd_core.errors import UserError

ADVICE = (
    "distilling needs raw images (PIL, uint8, or floats in [0, 1]): hand those to the benchmark, and put "
    "ToTensor and Normalize into its train_transform and eval_transform"
)


@dataclass(frozen=True)
class Form:
    """What an image was before it became uint8 (C, H, W)."""

    kind: Literal["pil", "array", "tensor"]
    dtype: torch.dtype = torch.uint8
    plain: bool = False  # (H, W), without a channel dimension


def to_uint8(image: Any) -> tuple[UInt8[Tensor, "C H W"], Form]:
    """A raw image as uint8 (C, H, W), and its form.

    Takes PIL images (L, RGB), uint8 arrays (H, W) or (H, W, C), and tensors (H, W) or (C, H, W) of uint8 or of
    floats in [0, 1]. Raises `UserError` for anything else, normalised floats above all.
    """
    if isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        return _from_array(image, Form("array", plain=image.ndim == 2))
    mode = getattr(image, "mode", None)
    if mode in ("L", "RGB"):
        return _from_array(np.asarray(image), Form("pil", plain=mode == "L"))
    kind = type(image).__name__ if mode is None else f"PIL images of mode {mode}"
    raise UserError(f"the experience's untransformed images are {kind}; {ADVICE}")


def from_uint8(image: UInt8[Tensor, "C H W"], form: Form) -> Any:
    """The inverse of `to_uint8`; exact for whatever held 256 values."""
    if form.kind == "tensor":
        shaped = image[0] if form.plain else image
        return shaped.clone() if form.dtype == torch.uint8 else shaped.to(form.dtype) / 255
    array = image[0].numpy() if form.plain else image.permute(1, 2, 0).contiguous().numpy()
    if form.kind == "array":
        return array.copy()
    from PIL import Image

    return Image.fromarray(array)


def _from_array(array: np.ndarray, form: Form) -> tuple[Tensor, Form]:
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise UserError(f"the experience's untransformed images are {array.dtype} {array.shape} arrays; {ADVICE}")
    image = torch.from_numpy(np.array(array))
    return (image[None] if form.plain else image.permute(2, 0, 1).contiguous()), form


def _from_tensor(image: Tensor) -> tuple[Tensor, Form]:
    if image.ndim not in (2, 3) or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise UserError(
            f"the experience's untransformed images are {image.dtype} {tuple(image.shape)} tensors; {ADVICE}"
        )
    form = Form("tensor", dtype=image.dtype, plain=image.ndim == 2)
    if image.dtype != torch.uint8:
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise UserError(f"the experience's untransformed images hold values from {low:.3g} to {high:.3g}; {ADVICE}")
        image = (image * 255).round().to(torch.uint8)
    return (image[None] if form.plain else image).contiguous(), form

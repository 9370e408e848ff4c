"""Raw images (PIL, array, tensor) to uint8 (C, H, W) and back into the same form.

A replayed image must go through the transforms of the experience's own images exactly once. So the image is stored as
it is *before* those transforms, and comes back in the form that they expect: a PIL image, an array or a tensor. Whole
arrays of images are converted one way only, by `to_levels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from dd_core.errors import UserError

ADVICE = "give raw images: PIL images of mode L or RGB, uint8 from 0 to 255, or floats from 0 to 1"
_CHANNELS = (1, 3, 4)  # of grey, RGB and RGBA images, where channels come last
_BLOCK = 16 << 20  # numbers that are converted at once; no result depends on it


@dataclass(frozen=True)
class Form:
    """What an image was before it became uint8 (C, H, W)."""

    kind: Literal["pil", "array", "tensor"]
    dtype: torch.dtype = torch.uint8
    plain: bool = False  # (H, W), without a channel dimension


# --- one image ---------------------------------------------------------------------------------------------------


def to_uint8(image: Any, *, of: str = "images", advice: str = ADVICE) -> tuple[UInt8[Tensor, "C H W"], Form]:
    """A raw image as uint8 (C, H, W), and its form.

    Takes PIL images (L, RGB), uint8 arrays (H, W) or (H, W, C), and tensors (H, W) or (C, H, W) of uint8 or of
    floats in [0, 1]. Raises `UserError` for anything else, normalised floats above all, and for channels that are not
    where they are expected. `of` says in the error what the image is, `advice` what to do.
    """
    if isinstance(image, Tensor):
        return _from_tensor(image, of, advice)
    if isinstance(image, np.ndarray):
        return _from_array(image, Form("array", plain=image.ndim == 2), of, advice)
    mode = getattr(image, "mode", None)
    if mode in ("L", "RGB"):
        return _from_array(np.asarray(image), Form("pil", plain=mode == "L"), of, advice)
    kind = type(image).__name__ if mode is None else f"PIL images of mode {mode}"
    raise UserError(f"{of} are {kind}; {advice}")


def from_uint8(image: UInt8[Tensor, "C H W"], form: Form) -> Any:
    """The inverse of `to_uint8`; exact for uint8, and for floats that are multiples of 1 / 255."""
    if form.kind == "tensor":
        shaped = image[0] if form.plain else image
        return shaped.clone() if form.dtype == torch.uint8 else shaped.to(form.dtype) / 255
    array = image[0].numpy() if form.plain else image.permute(1, 2, 0).contiguous().numpy()
    if form.kind == "array":
        return array.copy()
    return Image.fromarray(array)


def _from_array(array: np.ndarray, form: Form, of: str, advice: str) -> tuple[Tensor, Form]:
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise UserError(f"{of} are {array.dtype} {array.shape} arrays; {advice}")
    if not form.plain and array.shape[0] in _CHANNELS and array.shape[2] > max(_CHANNELS):
        raise UserError(
            f"{of} are arrays of shape {array.shape}, which looks like C x H x W, but arrays are read as H x W x C; "
            "give image.transpose(1, 2, 0), or torch tensors, which are read as C x H x W"
        )
    image = torch.from_numpy(np.array(array))
    return (image[None] if form.plain else image.permute(2, 0, 1).contiguous()), form


def _from_tensor(image: Tensor, of: str, advice: str) -> tuple[Tensor, Form]:
    if image.ndim not in (2, 3) or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise UserError(f"{of} are {image.dtype} {tuple(image.shape)} tensors; {advice}")
    if image.ndim == 3 and image.shape[2] in _CHANNELS and image.shape[0] > max(_CHANNELS):
        raise UserError(
            f"{of} are tensors of shape {tuple(image.shape)}, which looks like H x W x C, but tensors are read as "
            "C x H x W; give image.permute(2, 0, 1)"
        )
    form = Form("tensor", dtype=image.dtype, plain=image.ndim == 2)
    if image.dtype != torch.uint8:
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise UserError(f"{of} hold values from {low:.3g} to {high:.3g}; {advice}")
        image = (image * 255).round().to(torch.uint8)
    return (image[None] if form.plain else image).contiguous(), form


# --- an array of images ------------------------------------------------------------------------------------------


def to_levels(images: np.ndarray, *, of: str) -> UInt8[np.ndarray, "N C H W"]:
    """An array of images, (N, C, H, W) or (N, H, W), as the 256 levels that the engine computes with.

    uint8 is taken as it is, floats in [0, 1] are multiplied by 255 and rounded, and whole numbers from 0 to exactly 255
    are levels. Raises `UserError` for what could mean something else: other ranges, normalised images, channels that
    come last, flat rows, and images that would be all but black.
    """
    shaped = _with_channels(images, of)
    levels = np.ascontiguousarray(shaped) if shaped.dtype == np.uint8 else _scaled(shaped, of)
    require_visible(levels, of=of)
    return levels


def require_visible(levels: UInt8[np.ndarray, ...], *, of: str) -> None:
    """Raise `UserError` for uint8 images without a level above 1 of 255: they were scaled once too often."""
    if levels.max() <= 1:
        raise UserError(
            f"{of} have no level above 1 of 255, so all of them are black; were they divided by 255 twice, or is 1 "
            "white? Multiply them by 255"
        )


def _with_channels(images: np.ndarray, of: str) -> np.ndarray:
    shape = images.shape
    if images.ndim == 3 and 0 not in shape and shape[2] not in _CHANNELS:
        return images[:, None]
    if images.ndim == 4 and 0 not in shape and shape[3] not in _CHANNELS:
        return images
    raise UserError(f"{of} are an array of shape {shape}; {_shape_advice(shape)}")


def _shape_advice(shape: Sequence[int]) -> str:
    expected = "give N x C x H x W, or N x H x W for grey images"
    if len(shape) == 4 and 0 not in shape and shape[1] > max(_CHANNELS):
        return f"the {shape[3]} channels come last (N x H x W x C); give images.transpose(0, 3, 1, 2)"
    if len(shape) == 4 and 0 not in shape:
        return (
            "it can be N x C x H x W as well as N x H x W x C; say which by LabelledImages(torch.from_numpy(images), "
            "labels, classes, name), whose images are uint8 N x C x H x W"
        )
    if len(shape) == 2 and 0 not in shape:
        sides = {channels: round((shape[1] / channels) ** 0.5) for channels in (1, 3)}
        for channels, side in sides.items():
            if channels * side * side == shape[1]:
                return f"each image is a flat row; {expected}, such as images.reshape(-1, {channels}, {side}, {side})"
    if len(shape) == 3 and 0 not in shape:
        return f"that looks like one image with {shape[2]} channels; {expected}"
    return expected


def _scaled(images: np.ndarray, of: str) -> np.ndarray:
    """Floats in [0, 1], or whole numbers up to exactly 255, as uint8."""
    if images.dtype.kind not in "fiu":
        hint = "; where True is white, give images.astype('uint8') * 255" if images.dtype.kind == "b" else ""
        raise UserError(f"{of} are an array of {images.dtype}{hint or f'; {ADVICE}'}")
    low, high = images.min(), images.max()
    factor = 255 if images.dtype.kind == "f" and low >= 0 and high <= 1 else 1
    if factor == 1 and not (low >= 0 and high == 255):
        raise UserError(f"{of} are {images.dtype} from {low:.4g} to {high:.4g}; {_range_advice(low, high)}")
    levels = np.empty(images.shape, dtype=np.uint8)
    rows = max(1, _BLOCK // images[0].size)
    for start in range(0, len(images), rows):
        block = images[start : start + rows]
        if factor == 1 and images.dtype.kind == "f" and (block != np.rint(block)).any():
            raise UserError(f"{of} are {images.dtype} from {low:.4g} to {high:.4g}, with fractions; {ADVICE}")
        levels[start : start + rows] = np.rint(block.astype(np.float64) * factor)
    return levels


def _range_advice(low: Any, high: Any) -> str:
    if not np.isfinite([low, high]).all():
        return "replace the values that are not finite"
    if low < 0:
        return f"that looks normalised by a mean and a std; {ADVICE}, as images * std + mean are"
    return f"{ADVICE}: images / {high:.4g} where {high:.4g} is white, images.astype('uint8') where 255 is"

"""The ConvNet's layers with hand-written first and second derivatives: convolution, average pooling, instance norm.

Gradients through steps of training need second derivatives. On a CPU PyTorch differentiates its own group norm a second
time through some thirty operations, pools 2x2 pixels window by window, and convolves back onto three channels at a
fifth of its usual speed. The layers here have the same state as PyTorch's, and the same numbers except for rounding.
Where PyTorch's layers are faster, they are used (see `_fits` and `_pays` at the end).

**Convolution** is linear in images x and in weights w: y = x * w + b. With the transposed convolution T(g, w) and the
correlation C(g, x), for a cotangent g of y,

    dL/dx = T(g, w),   dL/dw = C(g, x),   dL/db = sum g

and for cotangents h, p, q of these three: dQ/dg = h * w + x * p + q,  dQ/dx = T(g, p),  dQ/dw = C(g, h). For few
channels, T is computed as a product of matrices, whose columns are folded into images.

**Average pooling** of 2x2 pixels is linear: y = A x. So dL/dx = A^T g, and the derivative of A^T is A again.

**Instance norm** takes each channel of each image as a row of m pixels, and treats all rows alike. For a row x with
weight w and bias b, where <.> is the mean over pixels:

    mu = <x>,   s = 1 / sqrt(<(x - mu)^2> + eps),   z = s (x - mu),   y = w z + b

A cotangent g of y has the gradients

    dL/dx = w s P(g),   dL/dw = sum g z =: alpha,   dL/db = sum g =: beta,   P(g) = g - <g> - z <g z>

P is linear and symmetric. For cotangents h, p, q of these three, Q = sum h w s P(g) + p alpha + q beta must be
differentiated. With u = w s P(h) and t = sum h s P(g), and since dz_j/dx_i = s (delta_ij - 1/m - z_i z_j / m) and
ds/dx_i = -s^2 z_i / m,

    dQ/dg = u + p z + q
    dQ/dw = t
    dQ/dx = c P(g) - (s alpha / m) u - (w s t / m) z,   c = s (p - w s <h z>)

which needs PyTorch's kernel of the first derivative once more, for u, and multiples of whole rows. Third derivatives
are autograd's through these lines, for which alpha, beta and s are computed again from g and x.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function, forward_ad

FEW = 4  # for up to so many channels oneDNN's transposed convolution is slow
# from so many numbers of an image in a layer on, these functions are faster than PyTorch's (`make bench-kernels`)
LARGE_POOL, LARGE = 2**13, 2**14

Rows = Float[Tensor, "R m"]
Each = Float[Tensor, " R"]  # a number for each row

# --- convolution -------------------------------------------------------------------------------------------------


class Convolution(nn.Conv2d):
    """`torch.nn.Conv2d` with stride 1 and a bias; its second derivative is faster on a CPU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, padding: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=padding)

    def forward(self, input: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K I J"]:
        """The convolution with stride 1."""
        height, width = input.shape[-2:]
        if self.bias is None or not _pays(input, self.weight, self.out_channels * height * width):
            return super().forward(input)
        return convolve(input, self.weight, self.bias, int(self.padding[0]))


def convolve(
    images_NCHW: Float[Tensor, "N C H W"], weight: Float[Tensor, "K C k l"], bias: Float[Tensor, " K"], padding: int
) -> Float[Tensor, "N K I J"]:
    """`torch.nn.functional.conv2d` with stride 1."""
    return _Convolve.apply(images_NCHW, weight, bias, padding)


class _Convolve(Function):
    """y = x * w + b."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, padding: int) -> Tensor:
        return F.conv2d(x, w, b, padding=padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
        x, w, _, ctx.padding = inputs
        ctx.save_for_backward(x, w)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        (g,) = grad_outputs
        return *_Gradients.apply(g, *ctx.saved_tensors, ctx.padding, tuple(ctx.needs_input_grad[:3])), None


class _Gradients(Function):
    """T(g, w), C(g, x) and the sum of g; None for those that are not `wanted`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, x: Tensor, w: Tensor, padding: int, wanted: tuple[bool, ...]) -> tuple[Any, ...]:
        if w.shape[1] > FEW:
            return _pytorchs(g, x, w, padding, *wanted)
        return _transposed(g, x, w, padding) if wanted[0] else None, *_correlated(g, x, w, padding, wanted[1:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        *tensors, ctx.padding, _ = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        h, p, q = grad_outputs
        (g, x, w), padding, (_, of_x, of_w, *_) = ctx.saved_tensors, ctx.padding, ctx.needs_input_grad
        dg = q[:, None, None].expand(g.shape) if q is not None and p is None else None
        if p is not None:
            dg = F.conv2d(x, p, q, padding=padding)
        if h is not None:
            along = F.conv2d(h, w, padding=padding)
            dg = along if dg is None else along.add_(dg)
        dx = _transposed(g, x, p, padding) if of_x and p is not None else None
        of_w = of_w and not any(w is tensor for tensor in _unsought)
        dw = _correlated(g, h, w, padding, (True, False))[0] if of_w and h is not None else None
        return dg, dx, dw, None, None


def _transposed(g: Tensor, x: Tensor, w: Tensor, padding: int) -> Tensor:
    """T(g, w), of the size of x."""
    if w.shape[1] > FEW:
        return _pytorchs(g, x, w, padding, True, False, False)[0]
    patches = torch.bmm(w.flatten(1).t().expand(len(g), -1, -1), g.flatten(2))
    return F.fold(patches, x.shape[2:], w.shape[2:], padding=padding)


def _correlated(g: Tensor, x: Tensor, w: Tensor, padding: int, wanted: tuple[bool, ...]) -> tuple[Any, Any]:
    """C(g, x), of the size of w, and the sum of g; None for those that are not `wanted`."""
    return _pytorchs(g, x, w, padding, False, *wanted)[1:] if any(wanted) else (None, None)


def _pytorchs(g: Tensor, x: Tensor, w: Tensor, padding: int, *wanted: bool) -> tuple[Any, Any, Any]:
    """PyTorch's gradients of images, weight and bias; None for those that are not `wanted`."""
    border = [padding, padding]
    return torch.ops.aten.convolution_backward(g, x, w, [len(w)], [1, 1], border, [1, 1], False, [0, 0], 1, wanted)


_unsought: list[Tensor] = []


@contextmanager
def unsought(weights: Iterable[Tensor]) -> Iterator[None]:
    """Tell the layers here that no gradient of `weights`, which are leaves, is needed within the block.

    Autograd does not tell a Python function which gradients are needed, and a weight's gradient costs a convolution.
    """
    before = list(_unsought)
    _unsought.extend(weights)
    try:
        yield
    finally:
        _unsought[:] = before


# --- average pooling ---------------------------------------------------------------------------------------------


class AveragePool(nn.AvgPool2d):
    """`torch.nn.AvgPool2d(2)`, faster on a CPU."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, input: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H//2 W//2"]:
        """The mean of each 2x2 pixels."""
        if not _fits(input, LARGE_POOL):
            return super().forward(input)
        return average_pool(input) if torch.is_grad_enabled() else _pooled(input)


def average_pool(images_NCHW: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H//2 W//2"]:
    """`torch.nn.functional.avg_pool2d` of 2x2 pixels; an odd last row or column is left out."""
    return _Pool.apply(images_NCHW)


class _Pool(Function):
    """y = A x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _pooled(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.size = tuple(inputs[0].shape[-2:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        (g,) = grad_outputs
        return _Spread.apply(g, *ctx.size)


def _pooled(x: Tensor) -> Tensor:
    """A x."""
    height, width = (side // 2 * 2 for side in x.shape[-2:])
    columns = x[..., 0:width:2] + x[..., 1:width:2]
    return (columns[..., 0:height:2, :] + columns[..., 1:height:2, :]).mul_(0.25)


class _Spread(Function):
    """A^T g, for images of height x width pixels."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, height: int, width: int) -> Tensor:
        *outer, rows, half = g.shape
        columns = g.new_empty(*outer, rows, 2 * half)
        columns[..., 0::2] = columns[..., 1::2] = g * 0.25
        pixels = columns[..., None, :].expand(*outer, rows, 2, 2 * half).reshape(*outer, 2 * rows, 2 * half)
        odd = height % 2 or width % 2
        return F.pad(pixels, (0, width - 2 * half, 0, height - 2 * rows)) if odd else pixels

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        (h,) = grad_outputs
        return _Pool.apply(h), None, None


# --- instance norm -----------------------------------------------------------------------------------------------


class InstanceNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` with a group for each channel; its second derivative is faster on a CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, input: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """The images with each channel at mean 0 and variance 1, times weight, plus bias."""
        if not _pays(input, self.weight, input.shape[1:].numel()):
            return super().forward(input)
        return instance_norm(input, self.weight, self.bias, self.eps)


def instance_norm(
    images_NCHW: Float[Tensor, "N C H W"], weight: Float[Tensor, " C"], bias: Float[Tensor, " C"], eps: float = 1e-5
) -> Float[Tensor, "N C H W"]:
    """`torch.nn.functional.group_norm` with a group for each channel."""
    return _Norm.apply(images_NCHW, weight, bias, eps)[0]


class _Norm(Function):
    """y = w z + b; also mu and s of each row."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        count, channels, height, width = x.shape
        return torch.native_group_norm(x.contiguous(), w, b, count, channels, height * width, channels, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, ...]) -> None:
        x, w, _, ctx.eps = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, w, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        g, *_ = grad_outputs
        x, w, mu, s = ctx.saved_tensors
        count, channels, height, width = x.shape
        if not torch.is_grad_enabled():  # nobody asks for a second derivative
            sizes = (count, channels, height * width, channels, [True, True, True])
            backward = torch.ops.aten.native_group_norm_backward
            return *backward(g.contiguous(), x.contiguous(), mu, s, w, *sizes), None
        rows = (count * channels, -1)
        slope, *sums = _Slope.apply(
            g.reshape(rows), x.reshape(rows), w.repeat(count), mu.flatten(), s.flatten(), ctx.eps
        )
        alpha, beta = (each.view(count, channels).sum(0) for each in sums)
        return slope.view(x.shape), alpha, beta, None


class _Slope(Function):
    """w s P(g), alpha and beta of each row."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Rows, x: Rows, w: Each, mu: Each, s: Each, eps: float) -> tuple[Rows, Each, Each]:
        count, pixels = x.shape
        # rows as the channels of one image, of which PyTorch's kernel gives the sums
        image, sizes = (1, count, pixels, 1), (1, count, pixels, count, [True, True, True])
        backward = torch.ops.aten.native_group_norm_backward
        slope, alpha, beta = backward(g.contiguous().view(image), x.view(image), mu[None], s[None], w, *sizes)
        return slope.view(x.shape), alpha, beta

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        h, p, q = grad_outputs
        g, x, w, mu, s, alpha, beta = ctx.saved_tensors
        m, eps = x.shape[1], ctx.eps
        u, h_z, h_1 = _Slope.apply(h, x, w, mu, s, eps)
        if torch.is_grad_enabled():  # a third derivative is to come
            s = ((x - x.mean(1, keepdim=True)).square().mean(1) + eps).rsqrt()
            alpha, beta = (g * _affine(x, torch.ones_like(w), torch.zeros_like(w), eps)).sum(1), g.sum(1)
        t = s * ((g * h).sum(1) - (beta * h_1 + alpha * h_z) / m)
        c = s * (p - w * s * h_z / m)
        dg = _affine(x, p, q, eps).add_(u)
        dx = _affine(x, -(c * alpha + w * s * t) / m, -c * beta / m, eps)
        dx = dx.addcmul_(g, c[:, None]).addcmul_(u, (-s * alpha / m)[:, None])
        return dg, dx, t, None, None, None


def _affine(x: Rows, each: Each, plus: Each, eps: float) -> Rows:
    """each z + plus."""
    count, pixels = x.shape
    image = x.view(1, count, pixels, 1)
    return torch.native_group_norm(image, each, plus, 1, count, pixels, count, eps)[0].view(x.shape)


# --- which to use ------------------------------------------------------------------------------------------------


def _pays(x: Tensor, w: Tensor, numbers: int) -> bool:
    """Whether a layer with weights w will be differentiated twice, and has enough `numbers` an image to pay.

    Weights that are parameters of a module are trained by first derivatives, for which PyTorch's layers are as fast.
    Weights that are differentiated through are tensors that `functional_call` puts in the parameters' place.
    """
    return torch.is_grad_enabled() and not isinstance(w, nn.Parameter) and numbers >= LARGE and _fits(x, 0, w)


def _fits(x: Tensor, large: int, *others: Tensor) -> bool:
    """Whether these functions are faster than PyTorch's for x, and support what is needed.

    PyTorch's are better on a GPU, and for small images or a single image; autocast and forward-mode derivatives need
    PyTorch's.
    """
    tensors = (x, *others)
    return (
        x.device.type == "cpu"
        and x.ndim == 4
        and len(x) > 1
        and x.shape[1:].numel() >= large
        and all(tensor.dtype == x.dtype and tensor.dtype in (torch.float32, torch.float64) for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and all(forward_ad.unpack_dual(tensor).tangent is None for tensor in tensors)
    )

"""The formulas of the zero-cost measures, each a function of a network and a mini-batch.

The formulas are those of Abdelfattah et al. 2021, "Zero-Cost Proxies for Lightweight NAS"; for NASWOT, of Mellor et al.
2021, "Neural Architecture Search without Training". The network is in training mode, and a function may change its
weights, buffers and mode. Sums over weights are over those of convolutions and linear layers, without biases. Each
function raises `UserError` where its formula has no value, or would leave out a part of the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from dd_core.errors import UserError

aten = torch.ops.aten

# --- size ------------------------------------------------------------------------------------------------------------


def parameters(network: nn.Module) -> float:
    """The number of parameters, trained or frozen; a parameter that several layers share counts once."""
    return float(sum(parameter.numel() for parameter in network.parameters()))


def flops(network: nn.Module, image_shape: Sequence[int]) -> float:
    """Multiply-accumulates of the convolutions and matrix products for one image, in evaluation mode.

    A multiplication with its addition counts 1; biases, norms, activations and poolings count nothing.
    """
    # gradients stay on: without gradients torch's attention uses a kernel that the counter does not know
    with _UncountedProducts() as uncounted, FlopCounterMode(display=False) as counter:
        network.eval()(_ones(network, image_shape))
    if uncounted.names:
        raise UserError(f"torch's FLOP counter has no formula for {', '.join(sorted(uncounted.names))} of the network")
    if not counter.get_total_flops():
        raise UserError("the network has no convolution and no matrix product to count")
    return counter.get_total_flops() / 2


class _UncountedProducts(TorchDispatchMode):
    """Notes the operations that multiply, or may multiply, and that torch's FLOP counter does not count.

    This mode is entered before the counter, which decomposes operations where it can.
    """

    products = (
        *("mv", "addmv", "dot", "vdot", "_trilinear", "_cdist_forward", "_sparse_mm", "_sparse_addmm"),
        *("_grouped_mm", "_scaled_grouped_mm", "_fft_r2c", "_fft_c2c", "_fft_c2r", "_cudnn_rnn", "mkldnn_rnn_layer"),
        *("_native_multi_head_attention", "_transformer_encoder_layer_fwd"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # an operation of another library may multiply
        multiplies = name in self.products or func.namespace not in ("aten", "prim", "prims")
        if multiplies and func.overloadpacket not in flop_registry:
            self.names.add(f"{func.namespace}::{name}")
        return func(*args, **(kwargs or {}))


# --- gradients of the weights ----------------------------------------------------------------------------------------


def synflow(network: nn.Module, image_shape: Sequence[int]) -> float:
    """Sum of |w dR/dw|: R is the sum of the outputs for one image of ones, with |p| in place of each parameter p.

    Every norm of `torch.nn` and `torch.nn.functional` returns its input: an image of ones has no variance to divide by.
    R is computed in double precision, since it grows by a factor with each layer, and in evaluation mode, without
    dropout. The sum is 0 where no input reaches the output. Tanaka et al. 2020, equation 3.
    """
    network.double().eval()
    weights = _weights(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    with _torch_functions(), _WithoutNorms():
        total = _logits(network, _ones(network, image_shape)).sum()
    return _total(weight * slope for weight, slope in zip(weights, _gradients(total, weights), strict=True))


def snip(network: nn.Module, images: Float[Tensor, "N C H W"], labels: Int[Tensor, " N"]) -> float:
    """Sum of |w dL/dw|, L the mean cross-entropy of the batch.

    w dL/dw is the derivative of L by a mask of ones on w: Lee, Ajanthan and Torr 2019, equation 5, not normalised.
    """
    weights = _weights(network)
    slopes = _gradients(_cross_entropy(network, images, labels), weights)
    return _total(weight * slope for weight, slope in zip(weights, slopes, strict=True))


def grad_norm(network: nn.Module, images: Float[Tensor, "N C H W"], labels: Int[Tensor, " N"]) -> float:
    """Sum over the layers of the Euclidean norm of dL/dw, L the mean cross-entropy of the batch, w a layer's weight."""
    slopes = _gradients(_cross_entropy(network, images, labels), _weights(network))
    return _total(slope.double().norm() for slope in slopes)


_SUMMED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NOT_SUMMED = (nn.MultiheadAttention, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)


def _weights(network: nn.Module) -> list[nn.Parameter]:
    """The weights of all convolutions and linear layers; a shared weight comes once."""
    weights: dict[int, nn.Parameter] = {}
    for module in network.modules():
        kind, weight = type(module).__name__, getattr(module, "weight", None)
        if isinstance(module, _NOT_SUMMED):
            raise UserError(f"the network has a {kind}, whose weights are in no convolution and no linear layer")
        if not isinstance(module, _SUMMED):
            continue
        if not isinstance(weight, nn.Parameter):
            raise UserError(f"the weight of a {kind} of the network is no parameter but computed from others")
        weights[id(weight)] = weight
    if not weights:
        raise UserError("the network has no convolution and no linear layer")
    return list(weights.values())


def _gradients(total: Float[Tensor, ""], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The derivative of `total` by each input; 0 for an input that `total` does not depend on."""
    if not total.requires_grad:
        raise UserError("the network's output has no gradient")
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def _total(saliencies: Iterable[Tensor]) -> float:
    return sum(saliency.detach().abs().sum(dtype=torch.float64).item() for saliency in saliencies)


def _cross_entropy(
    network: nn.Module, images: Float[Tensor, "N C H W"], labels: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    logits, least, most = _logits(network, images), labels.min().item(), labels.max().item()
    if least < 0 or most >= logits.shape[1]:
        # a GPU would fail here, and every call after this one
        raise UserError(f"labels are {least} to {most}; expected 0 to {logits.shape[1] - 1}, one for each output")
    return F.cross_entropy(logits, labels)


class _WithoutNorms(TorchFunctionMode):
    """Every normalisation returns its input, in whatever module or function it is called."""

    norms = (
        *(F.batch_norm, F.instance_norm, F.group_norm, F.layer_norm, F.rms_norm, F.local_response_norm),
        *(torch.batch_norm, torch.instance_norm, torch.group_norm, torch.layer_norm, torch.rms_norm),
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.norms:
            return args[0] if args else kwargs["input"]
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage] (torch's guide to extending it names it)
            return func(*args, **(kwargs or {}))  # modes of the caller are not applied


def _torch_functions() -> Any:
    """Enable torch function modes, which `surroundings.own` turns off."""
    return torch._C._EnableTorchFunction()  # pyright: ignore[reportPrivateUsage] (nothing else turns them on again)


# --- differences between images --------------------------------------------------------------------------------------

SMALL = 1e-5  # k of the formula, which keeps the logarithm and the inverse of an eigenvalue of 0 finite
ROUNDING = 64  # deviations of up to so many units in the last place count as rounding errors


def jacob_cov(network: nn.Module, images: Float[Tensor, "N C H W"]) -> float:
    """-sum of log(v + k) + 1 / (v + k) over the eigenvalues v of the correlations between images, k = 1e-5.

    An image's row is the gradient, by its pixels, of the sum of all outputs of the batch; a row that is the same at all
    pixels has no correlation. If all images have the same gradient, all but one v are 0, and the value is near -N / k.
    Mellor et al. 2020, the first version of "Neural Architecture Search without Training"; `jacob_cov` of Abdelfattah.
    """
    _require_two(images)
    images = images.requires_grad_()
    # the network gets a clone, because its first layer may overwrite its input
    (jacobian,) = _gradients(_logits(network, images.clone()).sum(), [images])
    rows = jacobian.flatten(1).double()
    if not rows.isfinite().all():
        return math.nan
    rounding = ROUNDING * torch.finfo(images.dtype).eps * rows.abs().amax(1)
    flat = int((rows.std(1) <= rounding).sum())
    if flat:
        raise UserError(
            f"the gradient of {flat} of {len(images)} images is the same at every pixel, as in a dead or saturated "
            "network, so it has no correlation with other images"
        )
    smoothed = torch.linalg.eigvalsh(rows.corrcoef()) + SMALL
    return -(smoothed.log() + 1 / smoothed).sum().item()


def naswot(network: nn.Module, images: Float[Tensor, "N C H W"]) -> float:
    """log |det K|: K_ij counts the ReLU units that are on for both or off for both images i and j, of all ReLUs.

    A unit is on where its input is above 0. ReLUs count with any negative slope, as modules and as functions; other
    activations do not count. Mellor et al. 2021, equation 2.
    """
    _require_two(images)
    with torch.no_grad(), _ReLUCodes(images) as codes:
        outputs = _logits(network, images)
    if not outputs.isfinite().all():
        return math.nan  # NaN inputs would count as units that are off
    if not codes.units:
        raise UserError("the network has no ReLU, leaky ReLU, PReLU or ReLU6; naswot compares images by their units")
    if torch.linalg.matrix_rank(codes.agreement, hermitian=True) < len(images):
        raise UserError(
            f"{codes.units} ReLU units do not tell {len(images)} images apart, so that K is singular: units are dead, "
            "images are equal, or there are more images than units"
        )
    return torch.linalg.slogdet(codes.agreement).logabsdet.item()


class _ReLUCodes(TorchDispatchMode):
    """Counts, over every ReLU that runs, the units on which two images agree."""

    relus = (
        *(aten.relu, aten.relu_, aten.leaky_relu, aten.leaky_relu_, aten._prelu_kernel),
        *(aten.rrelu_with_noise, aten.rrelu_with_noise_),
    )
    bounds = (  # these operations are ReLUs if their lower bound is 0
        *(aten.hardtanh, aten.hardtanh_, aten.clamp_min, aten.clamp_min_),
        *(aten.clamp, aten.clamp_, aten.threshold, aten.threshold_),
    )

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.units = 0
        self.agreement = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        bound = args[1] if packet in self.bounds and len(args) > 1 else (kwargs or {}).get("min")
        if packet in self.relus or (packet in self.bounds and isinstance(bound, int | float) and bound == 0):
            self._add(args[0])
        return func(*args, **(kwargs or {}))

    def _add(self, inputs: Tensor) -> None:
        count = len(self.agreement)
        if len(inputs) != count:
            raise UserError(f"a ReLU of the network is given {len(inputs)} rows for {count} images")
        # a product of signs is 1 where two images agree and -1 where not; sums of them are exact in float32 to 2^24
        signs = torch.where(inputs > 0, 1.0, -1.0).flatten(1)
        self.agreement += (signs @ signs.T + signs.shape[1]) / 2
        self.units += signs.shape[1]


# --- parts of all formulas -------------------------------------------------------------------------------------------


def _logits(network: nn.Module, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
    outputs = network(images)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(images):
        kind = str(tuple(outputs.shape)) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise UserError(f"the network returns {kind} for {len(images)} images, not ({len(images)}, classes)")
    return outputs


def _ones(network: nn.Module, image_shape: Sequence[int]) -> Float[Tensor, "1 C H W"]:
    """One image of ones, in the dtype and on the device of the network."""
    like = next(network.parameters(), torch.empty(0))
    return torch.ones(1, *image_shape, dtype=like.dtype, device=like.device)


def _require_two(images: Tensor) -> None:
    if len(images) < 2:
        raise UserError("the measure compares images, and there is only one; give at least two")

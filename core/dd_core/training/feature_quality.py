"""How well features tell classes apart: classification by nearest neighbours and by a linear probe.

Shapes: N images with D features each, and L labels; n images to classify, with W features; K classes (the largest
label + 1). L must be N, and W must be D, else `UserError`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from dd_core.errors import UserError, require_finite
from dd_core.system import surroundings
from dd_core.system.footprint import images_at_once

# published (k, T) of weighted nearest neighbours; accuracies under two conventions are not comparable
WU_2018 = (200, 0.07)  # Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination"
LIGHTLY = (200, 0.1)  # lightly's default until it became 0.07, after MoCo's notebook for CIFAR-10
SOLO_LEARN = (20, 0.07)  # solo-learn's default, and usual on ImageNet

PROBE_ITERATIONS, PROBE_L2 = 20, 1e-3  # of MKDT's linear probe
_TOGETHER = 1 << 16  # most tested images in a block
_EVALUATIONS = 25  # most evaluations of the loss in a line search


class LinearProbe(NamedTuple):
    """A linear classifier of features. A class without images has weights of 0 and a bias of -inf."""

    weights: Float[Tensor, "K D"]
    bias: Float[Tensor, " K"]

    @surroundings.own()
    def labels_of(self, features: Float[Tensor, "n W"]) -> Int64[Tensor, " n"]:
        """The class with the largest logit, of equals the first. Raises `UserError` for another number of features."""
        _require_width(features, self.weights.shape[1])
        return (features.to(self.weights) @ self.weights.T + self.bias).argmax(1)


@surroundings.own()
@torch.no_grad()
def nearest_neighbours(
    features: Float[Tensor, "N D"],
    labels: Int64[Tensor, " L"] | None,
    tested: Float[Tensor, "n W"],
    *,
    k: int,
    temperature: float,
) -> Int64[Tensor, " n"]:
    """The class of each of `tested` images by its k nearest neighbours under the cosine (Wu et al. 2018, section 3.4).

    Neighbour i votes with the weight exp(cos_i / T); of classes with equal votes the first wins. Where N < k, all N
    images vote. Features that are all 0 have the cosine 0 with all others. Raises `UserError` for labels that are
    missing or all the same, for features that are not finite or differ in width from the tested ones, for k < 1, and
    for a temperature that is not positive.
    """
    if k < 1 or not temperature > 0:
        raise UserError(f"nearest neighbours need k from 1 and a temperature above 0, not {k} and {temperature:g}")
    known, labels = _checked(features, labels)
    _require_width(tested, features.shape[1])
    known, count, classes = F.normalize(known), min(k, len(known)), int(labels.max()) + 1
    # bytes of one tested image: cosines; values, weights, places and labels of the nearest; votes
    each = known.element_size() * (len(known) + 3 * count + classes) + 16 * count
    blocks = _finite(tested).to(known).split(images_at_once(each, most=_TOGETHER))
    return torch.cat([_vote(F.normalize(block), known, labels, count, temperature) for block in blocks])


def _vote(block: Tensor, known: Tensor, labels: Tensor, count: int, temperature: float) -> Tensor:
    cosines, rows = (block @ known.T).topk(count)
    weights = ((cosines - cosines[:, :1]) / temperature).exp()  # the nearest one weighs 1, so that nothing overflows
    votes = weights.new_zeros(len(block), int(labels.max()) + 1)
    return votes.scatter_add_(1, labels[rows], weights).argmax(1)


@surroundings.own()
def linear_probe(
    features: Float[Tensor, "N D"],
    labels: Int64[Tensor, " L"] | None,
    *,
    l2: float = PROBE_L2,
    iterations: int = PROBE_ITERATIONS,
) -> LinearProbe:
    """A linear classifier by L-BFGS from zero: it minimises mean cross-entropy plus `l2` times the squared weights.

    The bias is not regularised, as in MKDT and in scikit-learn, whose C is 1 / (2 l2 N). There are at most `iterations`
    iterations, each with a line search for the strong Wolfe conditions; few iterations stop short of the optimum, which
    also regularises. Features are neither centred nor scaled. Raises `UserError` for labels that are missing or all the
    same, for features that are not finite, and for settings out of range; `Diverged` where the loss stops being finite.
    """
    if not 0 <= l2 < float("inf") or iterations < 1:
        raise UserError(f"a linear probe needs l2 from 0 and iterations from 1, not {l2:g} and {iterations}")
    inputs, labels = _checked(features, labels)
    present, targets = labels.unique(return_inverse=True)
    weights = inputs.new_zeros(len(present), inputs.shape[1], requires_grad=True)
    bias = inputs.new_zeros(len(present), requires_grad=True)
    evaluations = _EVALUATIONS * iterations  # torch's own limit ends before the iterations do
    optimiser = torch.optim.LBFGS(
        [weights, bias], max_iter=iterations, max_eval=evaluations, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(inputs @ weights.T + bias, targets) + l2 * weights.square().sum()
        require_finite(**{"the linear probe's loss": value.item()})
        value.backward()
        return value

    optimiser.step(loss)  # pyright: ignore[reportArgumentType]  # torch says float, and means what backward is called of
    return _of_all_classes(weights.detach(), bias.detach(), present)


def _of_all_classes(weights: Tensor, bias: Tensor, present: Tensor) -> LinearProbe:
    """The probe with rows for classes without images too: weights 0 and bias -inf, where the loss is smallest."""
    classes = int(present.max()) + 1
    return LinearProbe(
        weights.new_zeros(classes, weights.shape[1]).index_copy(0, present, weights),
        bias.new_full((classes,), -torch.inf).index_copy(0, present, bias),
    )


def _checked(features: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Features and labels on one device, fit for autograd; raises `UserError` where no classes can be learned."""
    if labels is None:
        raise UserError("the images have no labels, and a classifier of features needs labels; give labelled images")
    if len(labels) != len(features):
        raise UserError(f"there are {len(features)} images with features, and {len(labels)} labels; give one for each")
    if len(labels.unique()) < 2:
        classes = f"the one class {int(labels[0])}" if len(labels) else "no class"
        raise UserError(f"the {len(labels)} labelled images are of {classes}; two classes are needed at least")
    if (lowest := int(labels.min())) < 0:
        raise UserError(f"labels count classes from 0, and one label is {lowest}")
    return _finite(features), labels.to(features.device)


def _finite(features: Tensor) -> Tensor:
    values = features.detach()
    values = values if values.dtype == torch.float64 else values.float()
    if not torch.isfinite(values.norm(dim=1)).all():  # infinite too where values are too large to be squared
        raise UserError("the features have a value that is not finite, or too large; their network may have diverged")
    return values.clone() if values.is_inference() else values


def _require_width(features: Tensor, width: int) -> None:
    if features.shape[1] != width:
        raise UserError(
            f"the tested images have {features.shape[1]} features each, and must have {width}, as the known"
        )

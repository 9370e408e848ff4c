"""Probes of frozen features: softmax regression, by L-BFGS or by SGD, and nearest neighbours.

Shapes: n labelled images, m test images, D features, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dd_apps.transfer.embedding import features
from dd_apps.transfer.labelled import check_target, labelled_rows, labels_at
from dd_apps.transfer.scores import TransferScore
from dd_apps.transfer.settings import LinearProbe, Neighbours, SgdProbe
from dd_apps.transfer.stepping import take_steps
from dd_core.images import InputForm, Source
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system import surroundings
from dd_core.training import Loop, Settings, TrainingData, feature_quality

Probe = LinearProbe | SgdProbe | Neighbours


def linear_probe(
    backbone: nn.Module,
    train: Source,
    test: Source,
    *,
    fraction: float = 1.0,
    form: InputForm | None = None,
    settings: LinearProbe | SgdProbe | None = None,
    seed: int = 0,
    device: str = "auto",
) -> TransferScore:
    """The accuracy on `test` of a linear classifier on the frozen features of `backbone`.

    The classifier learns from `fraction` of the labels of `train`, drawn by `seed`. form: normalisation of images,
    `ds.input_form()` of the set that the backbone learned; None: by the mean and std of `train`. settings: by default
    L-BFGS as in MKDT. Raises `UserError` for images without labels, for a single class, and where `train` and `test`
    have different classes, and `Diverged`.
    """
    chosen = settings or LinearProbe()
    return Features.of(backbone, train, test, form=form, device=device).score(
        chosen, fraction=fraction, seed=seed, device=device
    )


def knn(
    backbone: nn.Module,
    train: Source,
    test: Source,
    *,
    k: int = 200,
    temperature: float = 0.1,
    fraction: float = 1.0,
    form: InputForm | None = None,
    seed: int = 0,
    device: str = "auto",
) -> TransferScore:
    """The accuracy on `test` of votes by the `k` nearest neighbours among the frozen features of labelled images.

    See `Neighbours` for the votes and `linear_probe` for the other arguments.
    """
    return Features.of(backbone, train, test, form=form, device=device).score(
        Neighbours(k=k, temperature=temperature), fraction=fraction, seed=seed, device=device
    )


class Features:
    """The frozen features of a target's training and test images, computed once for any number of probes."""

    def __init__(self, train: Source, test: Source, known: Tensor, tested: Tensor, form: InputForm) -> None:
        self.train, self.test, self.known, self.tested, self.form = train, test, known, tested, form

    @staticmethod
    def of(
        backbone: nn.Module, train: Source, test: Source, *, form: InputForm | None = None, device: str = "auto"
    ) -> Features:
        """Compute the features of both splits. Raises what `check_target` and `features` raise."""
        check_target(train, test)
        chosen = form or InputForm.of(train)
        known, tested = (features(backbone, source, chosen, device=device) for source in (train, test))
        return Features(train, test, known, tested, chosen)

    @surroundings.own()
    def score(self, settings: Probe, *, fraction: float, seed: int, device: str = "auto") -> TransferScore:
        """The score of a probe that learns from `fraction` of the training labels, drawn by `seed`."""
        rows = labelled_rows(self.train, fraction, seed=seed)
        known, labels, classes = self.known[rows], labels_at(self.train, rows), len(self.train.classes)
        where = devices.resolve(device)
        if isinstance(settings, Neighbours):
            k, temperature = settings.k, settings.temperature
            guesses = feature_quality.nearest_neighbours(
                known.to(where), labels, self.tested.to(where), k=k, temperature=temperature
            ).cpu()
        elif isinstance(settings, LinearProbe):
            probe = feature_quality.linear_probe(
                known.to(where), labels, l2=settings.l2, iterations=settings.iterations
            )
            guesses = probe.labels_of(self.tested.to(where)).cpu()
        else:
            layer = sgd_regression(known, labels, classes=classes, settings=settings, seed=seed, device=where)
            with torch.no_grad():
                guesses = layer(self.tested.to(where)).argmax(1).cpu()
        right = guesses == labels_at(self.test, torch.arange(len(self.test)))
        return TransferScore(
            accuracy=int(right.sum()) / len(right),
            done=settings.words,
            fraction=fraction,
            labels=len(rows),
            tested=len(right),
            classes=classes,
            seed=seed,
            features=known.shape[1],
            **described(self.form),
        )


def described(form: InputForm) -> dict[str, Any]:
    """The normalisation of images, as fields of a score."""
    return {"mean": tuple(form.mean), "std": tuple(form.std), "whitened": form.whitening is not None}


def sgd_regression(
    features_nD: Float[Tensor, "n D"],
    labels: Int64[Tensor, " n"],
    *,
    classes: int,
    settings: SgdProbe,
    seed: int,
    device: torch.device,
) -> nn.Linear:
    """A linear layer, trained by SGD on the cross-entropy from PyTorch's initial weights; raises `Diverged`."""
    streams = Streams(seed).child("probe")
    with streams.seeded("layer"):
        layer = nn.Linear(features_nD.shape[1], classes)
    lessons = TrainingData(features_nD[:, :, None, None], labels, None, classes)  # images of one pixel
    loop = Loop(
        nn.Sequential(nn.Flatten(), layer),
        lessons,
        Settings(
            learning_rate=settings.learning_rate,
            epochs=settings.steps,
            batch_size=settings.batch_size,
            momentum=settings.momentum,
            schedule="cosine",
            loss_called="loss of the linear probe",
            check_every=100,
        ),
        streams=streams,
        device=device,
    )
    take_steps(loop, batch_size=settings.batch_size)
    return layer.eval()

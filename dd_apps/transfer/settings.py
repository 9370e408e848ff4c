"""The ways in which a backbone is scored on a target, with the numbers of the literature; imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dd_core.config import Config


class LinearProbe(Config):
    """Softmax regression on frozen features by L-BFGS, as MKDT scores backbones (Joshi et al. 2025)."""

    kind: Literal["linear-probe"] = Field(
        default="linear-probe", description="softmax regression on frozen features, solved by L-BFGS"
    )
    iterations: int = Field(default=20, ge=1, description="iterations of L-BFGS at most (MKDT: 20)")
    l2: float = Field(
        default=1e-3, ge=0, description="factor of the squared weights, without biases, in the objective (MKDT: 1e-3)"
    )

    @property
    def called(self) -> str:
        """For a table's title."""
        return "linear probe"

    @property
    def words(self) -> str:
        """What is done, in words."""
        return f"softmax regression on frozen features, L-BFGS, {self.iterations} iterations, L2 {self.l2:g}"


class SgdProbe(Config):
    """Softmax regression on frozen features by SGD, as in KRR-ST's code (Lee et al. 2024)."""

    kind: Literal["sgd-probe"] = Field(
        default="sgd-probe", description="softmax regression on frozen features, by SGD with a cosine schedule"
    )
    steps: int = Field(default=5000, ge=1, description="steps of SGD (KRR-ST: 5,000)")
    learning_rate: float = Field(default=0.2, gt=0, description="initial learning rate of SGD (KRR-ST: 0.2)")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD (KRR-ST: 0.9)")
    batch_size: int = Field(default=512, ge=1, description="images in a mini-batch (KRR-ST: 512)")

    @property
    def called(self) -> str:
        """For a table's title."""
        return "linear probe by SGD"

    @property
    def words(self) -> str:
        """What is done, in words."""
        return (
            f"softmax regression on frozen features, {self.steps:,} steps of SGD, rate {self.learning_rate:g} along a "
            f"cosine to zero, momentum {self.momentum:g}, no weight decay, batch {self.batch_size}"
        )


class Neighbours(Config):
    """Votes of the nearest neighbours among frozen features, weighted by similarity (Wu et al. 2018, section 3.4)."""

    kind: Literal["knn"] = Field(default="knn", description="votes of the nearest neighbours among frozen features")
    k: int = Field(
        default=200, ge=1, description="number of neighbours that vote; all labelled images if there are fewer"
    )
    temperature: float = Field(
        default=0.1, gt=0, description="temperature T of votes: a neighbour of cosine similarity s votes by exp(s / T)"
    )

    @property
    def called(self) -> str:
        """For a table's title."""
        return f"kNN (k {self.k}, T {self.temperature:g})"

    @property
    def words(self) -> str:
        """What is done, in words."""
        return f"{self.k} nearest neighbours by cosine similarity, temperature {self.temperature:g}, frozen features"


class FineTuning(Config):
    """Training of all weights with a fresh last layer, as KRR-ST scores backbones (Lee et al. 2024)."""

    kind: Literal["fine-tune"] = Field(
        default="fine-tune",
        description="training of all weights with a fresh last layer, by SGD with a cosine schedule",
    )
    steps: int = Field(default=10_000, ge=1, description="steps of SGD (KRR-ST: 10,000; 5,000 on fine-grained sets)")
    learning_rate: float = Field(default=0.01, gt=0, description="initial learning rate of SGD (KRR-ST: 0.01)")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD (KRR-ST: 0.9)")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of SGD (KRR-ST: 5e-4)")
    batch_size: int = Field(default=256, ge=1, description="images in a mini-batch (KRR-ST: 256)")
    crop: int = Field(
        default=4, ge=0, description="largest shift of an image each way, in pixels, filled with black (KRR-ST: 4)"
    )

    @property
    def called(self) -> str:
        """For a table's title."""
        return "fine-tuning"

    @property
    def words(self) -> str:
        """What is done, in words."""
        return (
            f"all weights, fresh last layer, {self.steps:,} steps of SGD, rate {self.learning_rate:g} along a cosine "
            f"to zero, momentum {self.momentum:g}, weight decay {self.weight_decay:g}, batch {self.batch_size}, crop "
            f"{self.crop}, mirrored but for digits"
        )


ScoringConfig = Annotated[LinearProbe | SgdProbe | Neighbours | FineTuning, Field(discriminator="kind")]

"""The task `distill`: distil one data set by one method, and score the result on several networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, JsonValue, model_validator

from dd_apps.data import DataScenario, images_a_class, to_pretrain_on
from dd_apps.report.scores import figures, score_table
from dd_apps.scoring import SCORES, Scored, Scoring, Start, check_names, score
from dd_apps.task import Outcome
from dd_core import exchange, runner
from dd_core.distilled import DistilledSet, Size
from dd_core.errors import UserError
from dd_core.evaluation import protocols
from dd_core.methods import decode_method
from dd_core.recipe import DISTRIBUTIONS
from dd_core.system import surroundings

if TYPE_CHECKING:
    from dd_core.runner import RunOptions


class DistillScenario(DataScenario):
    """One distilled set and its evaluation."""

    pretrain_on: str | None = Field(
        default=None, description="data set, or folder:PATH, that networks are pre-trained on; none: `data` itself"
    )
    method: dict[str, JsonValue] = Field(description="name of the method, and its options")
    ipc: int | None = Field(default=None, ge=1, description="images per class")
    images: int | None = Field(default=None, ge=1, description="images in all, instead of ipc")
    seed: int = Field(default=0, ge=0, description="seed of the distillation and of the evaluation")
    protocol: str = Field(default="recipe", description="name of the protocol by which networks are trained on the set")
    networks: tuple[str, ...] = Field(
        default=(), description="networks that are trained on the set and tested; empty: that of the set's recipe"
    )
    nets: int = Field(default=5, ge=1, description="fresh networks of each architecture, whose mean is the score")
    start: Start | None = Field(default=None, description="initial weights of networks; none: as the set's recipe says")

    @model_validator(mode="after")
    def _can_be_run(self) -> DistillScenario:
        if (self.ipc is None) == (self.images is None):
            raise ValueError("give either ipc (images per class) or images (in all)")
        try:
            check_names(protocol=self.protocol, networks=self.networks, start=self.start)
            config = decode_method(self.method)
            config.require_labels_used("the score of a classifier")
            if config.starts == "one" and self.start is None and {*self.networks} - {config.recipe.network}:
                raise UserError(f"networks: the set is for one {config.recipe.network} only; leave networks out")
        except UserError as error:
            raise ValueError(error.text) from None
        return self

    @property
    def title(self) -> str:
        """Method, data and size, on one line."""
        size = "" if self.image_size is None else f" at {self.image_size} px"
        images = f"{self.images} images in all" if self.ipc is None else images_a_class(self.ipc)
        start = "" if self.pretrain_on is None else f", networks pre-trained on {self.pretrain_on}"
        return f"{self.method['name']} on {self.data}{size}, {images}{start}"

    def run(self, folder: Path, options: RunOptions) -> Outcome:
        """Distil into `folder`, then evaluate."""
        ds, scored = run(self, out=folder / "distilled.safetensors", options=options)
        table = score_table(scored.evaluations, title="accuracy on test images")
        figures_of_each = [figures(evaluation) for evaluation in scored.evaluations]
        return Outcome([table], {"distilled": ds}, {"evaluations": figures_of_each})


@surroundings.own()
def run(scenario: DistillScenario, *, out: Path, options: RunOptions) -> tuple[DistilledSet, Scored]:
    """Distil into `out`, then evaluate. Raises what `runner.distill` and `score` raise."""
    workers, say = options.workers, options.reporter.message
    data = scenario.real_images
    train = data.load("train", workers=workers, say=say)
    other = to_pretrain_on(scenario.pretrain_on, train, skip_corrupt=scenario.skip_corrupt, workers=workers, say=say)
    config = exchange.with_weights_kept(decode_method(scenario.method))
    size = Size(ipc=scenario.ipc, images=scenario.images)
    ds = runner.distill(config, train, size, seed=scenario.seed, out=out, options=options, pretrain_on=other)
    if not protocols.load(scenario.protocol).trains_networks or scenario.start in DISTRIBUTIONS:
        other = None  # the evaluation starts from no pre-trained network
    scoring = Scoring(scenario.protocol, scenario.networks, scenario.nets, scenario.seed, scenario.start, other)
    test = data.load("test", workers=workers, say=say)
    return ds, score(ds, train, test, scoring, options=options, keep=out.parent / SCORES)

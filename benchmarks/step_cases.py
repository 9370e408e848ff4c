"""The cases of `steps.py`: what a worker makes ready and repeats, an outer step, an expert's epoch or an evaluation.

Each function imports the engine when it is called, so that the engine is that of the worker's own checkout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLASSES = 10

Record = dict[str, Any]
Parts = Mapping[str, Callable[[], object]]  # what a repetition does, in this order; each is timed by itself


@dataclass(frozen=True)
class Case:
    """The work of a worker: `make` prepares it and returns the parts of a repetition."""

    make: Callable[..., Parts]
    settings: Record

    def ready(self, cache: Path) -> Parts:
        """The parts, with everything made that they need; `cache` is a folder for artefacts."""
        return self.make(**self.settings, cache=cache)


def noise(a_class: int) -> Any:
    """`a_class` random images of each class, as `LabelledImages`."""
    import torch

    from dd_core.images import LabelledImages

    count = a_class * CLASSES
    pixels = torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return LabelledImages(pixels, torch.arange(count) % CLASSES, tuple("0123456789"), "noise")


def outer_step(*, method: Record, ipc: int, real: int, cache: Path) -> Parts:
    """An outer step of a method that distils `ipc` images a class from `real` ones."""
    import torch

    from dd_core.distilled import Size
    from dd_core.methods import decode_method

    config: Any = decode_method(method)
    given = {"source": noise(real), "size": Size(ipc=ipc), "device": torch.device("cpu")}
    try:
        from dd_core.distiller import Context
    except ImportError:  # an older checkout
        distiller: Any = config.build(**given, **_before_contexts(config, given["source"], cache))
    else:
        distiller = config.build(Context.gather(config, **given, seed=0, cache=cache))
    turns = iter(range(config.steps))
    return {"step": lambda: distiller.step(next(turns))}


def _before_contexts(config: Any, source: Any, cache: Path) -> Record:
    """The other arguments of `build` in checkouts where it took what a method needs by digest."""
    from dd_core import artefacts
    from dd_core.streams import Streams

    resources = artefacts.Resources.of([source], device="cpu")
    made = {spec.digest(): artefacts.get(spec, resources=resources, cache=cache) for spec in config.needs(source)}
    return {"artefacts": made, "streams": Streams(0)}


def expert_epoch(*, network: str, real: int, sharpness: Record | None, cache: Path) -> Parts:
    """An expert's epoch on `real` images a class."""
    import torch

    from dd_core.augment.names import resolve_strategy
    from dd_core.methods.trajectory_matching import experts
    from dd_core.methods.trajectory_matching.expert_training import Sharpness, Training
    from dd_core.streams import Streams

    del cache
    source = noise(real)
    how = Training(
        augmentation=resolve_strategy("auto", source.name), sharpness=Sharpness(**sharpness) if sharpness else None
    )
    spec = experts.ExpertsSpec(
        source=source.fingerprint(),
        network=network,
        image_shape=source.image_shape,
        classes=CLASSES,
        count=1,
        training=how,
        last=0,  # no later epoch's weights are kept
    )
    form = experts.form_of(source, spec.statistics)
    expert = spec.expert(source, form, streams=Streams(0), device=torch.device("cpu"))
    return {"epoch": expert.loop.epoch}


def evaluation(*, network: str, ipc: int, epochs: int, scored: int, cache: Path) -> Parts:
    """A network's training on `ipc` images a class, and its accuracy on `scored` ones a class."""
    import torch

    from dd_core import training
    from dd_core.evaluation import protocols
    from dd_core.images import InputForm
    from dd_core.recipe import Recipe
    from dd_core.streams import Streams

    del cache
    cpu, train, test = torch.device("cpu"), noise(ipc), noise(scored)
    form = InputForm.of(train)
    data = training.TrainingData(form(train.images), train.labels, None, CLASSES)
    recipe = (
        protocols.load("dm-1000")
        .recipe(Recipe(network=network), source_name=train.name)
        .model_copy(update={"epochs": epochs})
    )
    fitted: dict[str, Any] = {}

    def fit() -> None:
        fitted["model"] = training.fit(data, network, recipe, streams=Streams(0), device=cpu)

    return {"fit": fit, "accuracy": lambda: training.accuracy(fitted["model"], test, form, device=cpu)}


def matching(name: str, width: int, ipc: int, inner: int, **options: Any) -> Case:
    """A method that matches trajectories.

    The expert learns in mini-batches of ten, so that a process's peak of memory is the student's.
    """
    flat = {"sharpness": {"rho": 0.01, "alpha": 0.3}} if name in ("ftd", "datm", "m-datm") else {}
    method = {
        "name": name,
        "steps": 1_000_000,
        "syn_steps": inner,
        "expert_epochs": 2,
        "last_epoch": 1,
        "range_start": None,
        "lr_img": 100,
        "lr_lr": 0 if name == "m-datm" else 1e-7,
        "lr_student": 0.01,
        "batch_syn": 10 * ipc,
        "gradient": "full",
        "experts": 1,
        "training": {"epochs": 2, "batch_size": 10, **flat},
        "recipe": {"network": f"convnet-3-w{width}"},
    }
    return Case(outer_step, {"method": method | options, "ipc": ipc, "real": 12})


def dataset_distillation(network: str, inner: int) -> Case:
    """Wang et al.'s, with a block of ten images for each inner step."""
    method = {
        "name": "dataset-distillation",
        "steps": 1_000_000,
        "blocks": inner,
        "epochs": 1,
        "batch_real": 100,
        "lr_img": 0.01,
        "lr_inner": 0.02,
        "gradient": "full",
        "start": "fixed",
        "recipe": {"network": network, "initialisation": "xavier"},
    }
    return Case(outer_step, {"method": method, "ipc": inner, "real": 12})


def cases() -> dict[str, Case]:
    """Every case by its name. The wider network has fewer steps of each."""
    found: dict[str, Case] = {}
    for width in (32, 128):
        network, wide, end = f"convnet-3-w{width}", width == 128, f"w{width}"
        few, one = (4 if wide else 10), (1 if wide else 2)  # inner steps on 10 images, and on 100
        for gradient in ("full", "adjoint"):
            found[f"mtt-{gradient}-ipc1-{end}"] = matching("mtt", width, 1, few, gradient=gradient)
            found[f"mtt-{gradient}-ipc10-{end}"] = matching("mtt", width, 10, one, gradient=gradient)
        found[f"ftd-ipc1-{end}"] = matching("ftd", width, 1, few, ema=0.9995)
        found[f"datm-ipc1-{end}"] = matching("datm", width, 1, few, threshold=1.1, lr_label=5)
        found[f"m-datm-ipc1-{end}"] = matching("m-datm", width, 1, few)
        found[f"tesla-ipc1-{end}"] = matching("tesla", width, 1, few, gradient="tesla", lr_img=1000)
        found[f"tesla-ipc10-{end}"] = matching("tesla", width, 10, one, gradient="tesla", lr_img=1000)
        dm = {"name": "dm", "steps": 1_000_000, "recipe": {"network": network}}
        found[f"dm-ipc10-{end}"] = Case(outer_step, {"method": dm, "ipc": 10, "real": 20 if wide else 80})
        found[f"dataset-distillation-{end}"] = dataset_distillation(network, few)
        epoch: Record = {"network": network, "real": 25 if wide else 102}  # one mini-batch, and four
        found[f"expert-sgd-{end}"] = Case(expert_epoch, {**epoch, "sharpness": None})
        found[f"expert-gsam-{end}"] = Case(expert_epoch, {**epoch, "sharpness": {"rho": 0.01, "alpha": 0.3}})
        for ipc, epochs in ((1, 15), (10, 2)):
            settings: Record = {"network": network, "ipc": ipc, "epochs": epochs if wide else 4 * epochs}
            settings |= {"scored": 100 if wide else 200}
            found[f"evaluation-{10 * ipc}-images-{end}"] = Case(evaluation, settings)
    found["dataset-distillation-alexcifarnet"] = dataset_distillation("alexcifarnet", 5)
    return found


CASES = cases()

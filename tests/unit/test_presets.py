"""The shipped scenarios of trajectory matching: the values of the papers' tables, and what their comments say."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
import torch

from dd_apps import scenario
from dd_apps.distillation import DistillScenario
from dd_apps.transfer.config import TransferScenario
from dd_apps.transfer.settings import FineTuning
from dd_core.distilled import Size
from dd_core.images import LabelledImages
from dd_core.methods import decode_method, method
from dd_core.methods.gradient_matching.config import GradientMatchingConfig
from dd_core.methods.krr_st.config import KRRSTConfig
from dd_core.methods.sre2l.config import SRe2LConfig
from dd_core.methods.trajectory_matching.config import MTTConfig
from dd_core.methods.trajectory_matching.experts import ExpertsSpec
from dd_core.training.feature_teacher_config import solo_learn
from dd_core.zca import WhiteningSpec


class Cell(NamedTuple):
    """A cell of a table: no T_0 where the range does not grow, no batch where it is all images."""

    N: int
    M: int
    start: int  # T-
    reach: int | None  # T_0
    end: int  # T+
    growth: int | None  # outer iterations from T_0 to T+
    batch: int | None
    lr_img: float
    lr_label: float | None
    lr_lr: float
    step: float  # initial rate of a student
    zca: bool
    ema: float | None = None


# N, M, T-, T_0, T+, growth, batch, lr_img, lr_y, lr_lr, step, ZCA, EMA
MTT = {
    "cifar10-ipc1": Cell(50, 2, 0, None, 2, None, None, 100, None, 1e-7, 0.01, True),
    "cifar10-ipc10": Cell(30, 2, 0, None, 20, None, None, 100, None, 1e-5, 0.001, True),
    "cifar10-ipc50": Cell(30, 2, 0, None, 40, None, None, 1000, None, 1e-5, 0.001, False),
    "cifar100-ipc1": Cell(20, 3, 0, None, 20, None, None, 1000, None, 1e-5, 0.01, True),
    "cifar100-ipc10": Cell(20, 2, 0, None, 20, None, None, 1000, None, 1e-5, 0.01, False),
    "cifar100-ipc50": Cell(80, 2, 0, None, 40, None, 125, 1000, None, 1e-5, 0.01, True),
    "tiny-imagenet-ipc1": Cell(10, 2, 0, None, 10, None, None, 10_000, None, 1e-4, 0.01, False),
    "tiny-imagenet-ipc10": Cell(20, 2, 0, None, 40, None, 200, 10_000, None, 1e-4, 0.01, False),
    "tiny-imagenet-ipc50": Cell(20, 2, 0, None, 40, None, 300, 10_000, None, 1e-4, 0.01, False),
    "imagenette-ipc10": Cell(20, 2, 0, None, 10, None, 20, 1000, None, 1e-6, 0.01, False),
}
FTD = {
    "cifar10-ipc1": Cell(50, 2, 0, None, 2, None, None, 100, None, 1e-7, 0.01, True, 0.9999),
    "cifar10-ipc10": Cell(30, 2, 0, None, 20, None, None, 100, None, 1e-5, 0.001, True, 0.9995),
    "cifar10-ipc50": Cell(30, 2, 0, None, 40, None, None, 1000, None, 1e-5, 0.01, False, 0.999),
    "cifar100-ipc1": Cell(40, 3, 0, None, 20, None, None, 1000, None, 1e-5, 0.01, True, 0.9995),
    "cifar100-ipc10": Cell(20, 2, 0, None, 40, None, None, 1000, None, 1e-5, 0.01, True, 0.9995),
    "cifar100-ipc50": Cell(80, 2, 0, None, 40, None, 1000, 1000, None, 1e-5, 0.01, True, 0.999),
    "tiny-imagenet-ipc1": Cell(30, 2, 0, None, 10, None, None, 10_000, None, 1e-4, 0.01, False, 0.999),
    "tiny-imagenet-ipc10": Cell(20, 2, 0, None, 40, None, 500, 10_000, None, 1e-4, 0.01, False, 0.999),
}
DATM = {
    "cifar10-ipc1": Cell(80, 2, 0, None, 4, None, 10, 100, 5, 1e-7, 0.01, True),
    "cifar10-ipc10": Cell(80, 2, 0, 10, 20, 1000, 100, 100, 2, 1e-5, 0.01, True),
    "cifar10-ipc50": Cell(80, 2, 0, 20, 40, 2000, 500, 1000, 2, 1e-5, 0.01, True),
    "cifar10-ipc500": Cell(40, 2, 40, None, 60, None, 1000, 50, 10, 1e-5, 0.01, True),
    "cifar10-ipc1000": Cell(100, 2, 40, None, 60, None, 1000, 50, 10, 1e-5, 0.01, True),
    "cifar100-ipc1": Cell(40, 3, 0, 10, 20, 1000, 1000, 1000, 10, 1e-5, 0.01, True),
    "cifar100-ipc10": Cell(80, 2, 0, 30, 50, 2000, 1000, 1000, 10, 1e-5, 0.01, True),
    "cifar100-ipc50": Cell(80, 2, 20, None, 70, None, 1000, 1000, 10, 1e-5, 0.01, True),
    "cifar100-ipc100": Cell(80, 2, 30, None, 70, None, 1000, 50, 10, 1e-5, 0.01, True),
    "tiny-imagenet-ipc1": Cell(40, 2, 0, 15, 20, 2000, 1000, 10_000, 10, 1e-4, 0.01, False),
    "tiny-imagenet-ipc10": Cell(40, 2, 10, None, 50, None, 500, 100, 10, 1e-4, 0.01, False),
    "tiny-imagenet-ipc50": Cell(20, 2, 40, None, 70, None, 1000, 100, 10, 1e-4, 0.01, False),
}
M_DATM = {
    "cifar100-ipc10": Cell(80, 2, 0, 30, 50, 2000, 1000, 1000, None, 0.0, 0.01, False),
    "tiny-imagenet-ipc10": Cell(40, 2, 0, None, 20, None, 500, 100, None, 0.0, 0.01, False),
}
TESLA = {
    "cifar10-ipc1": Cell(50, 2, 0, None, 5, None, None, 1000, None, 1e-7, 0.01, False),
    "cifar100-ipc50": Cell(80, 2, 0, None, 40, None, 125, 1000, None, 1e-5, 0.01, True),
}
TABLES = {"mtt": MTT, "ftd": FTD, "datm": DATM, "m-datm": M_DATM, "tesla": TESLA}
CARDS = {f"{cell}-{method}": values for method, table in TABLES.items() for cell, values in table.items()}
# what presets for a CPU have that is no default of their method, but for a narrow network
FEWER = {"last_epoch": 3, "experts": 3}
LEARNED: dict[str, Any] = {  # experts of few images that are no beginners in the epochs that are matched
    "steps": 1000,
    "last_epoch": 30,
    "lr_student": 0.02,
    "training": {"epochs": 40, "batch_size": 64, "learning_rate": 0.05},
}
SMALL: dict[str, dict[str, Any]] = {
    "digits-ipc1-mtt": {},
    "digits-ipc10-mtt": LEARNED,
    "digits-ipc10-ftd": {**LEARNED, "ema": 0.99},
    "digits-ipc10-datm": {**LEARNED, "range_start": 10, "lr_label": 5.0},
    "digits-ipc10-m-datm": {**LEARNED, "syn_steps": 20, "last_epoch": 20},
    "digits-ipc10-tesla": LEARNED,
    "mnist-ipc1-mtt": FEWER,
}

STEPS = {"mtt": 5000, "ftd": 5000, "datm": 10_000, "m-datm": 10_000, "tesla": 10_000}
EPOCHS = {"mtt": 50, "ftd": 50, "datm": 100, "m-datm": 100, "tesla": 50}
PROTOCOLS = {
    "mtt": "mtt-1000",
    "ftd": "mtt-1000",
    "datm": "datm-soft",
    "m-datm": "challenge-2024",
    "tesla": "mtt-1000",
}
# image shape, classes, network of the experts, and statistics of images that are not whitened
DATA = {
    "cifar10": ((3, 32, 32), 10, "convnet-3", "data"),
    "cifar100": ((3, 32, 32), 100, "convnet-3", "data"),
    "tiny-imagenet": ((3, 64, 64), 200, "convnet-4", "imagenet"),
    "imagenette": ((3, 128, 128), 10, "convnet-5", "imagenet"),
    "digits": ((1, 8, 8), 10, "convnet-w32", "data"),
    "mnist": ((1, 28, 28), 10, "convnet-w16", "data"),
}
FOLDERS = {"tiny-imagenet": "folder:tiny-imagenet-200", "imagenette": "folder:imagenette"}


def parts(name: str) -> tuple[str, int, str]:
    """(data, images per class, method) in the name of a preset."""
    data, ipc, kind = re.fullmatch(r"([a-z0-9-]+)-ipc(\d+)-([a-z0-9-]+)", name).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return data, int(ipc), kind


def preset(name: str) -> tuple[DistillScenario, MTTConfig]:
    values = scenario.load(name).values
    assert isinstance(values, DistillScenario)
    config = decode_method(values.method)
    assert isinstance(config, MTTConfig)
    return values, config


def experts_of(name: str) -> tuple[ExpertsSpec, int]:
    """The experts that a preset asks for, and how many whitenings."""
    shape, classes, *_ = DATA[parts(name)[0]]
    labels = torch.arange(classes)
    source = LabelledImages(
        torch.zeros(classes, *shape, dtype=torch.uint8), labels, tuple(map(str, labels)), "a source"
    )
    needs = preset(name)[1].needs(source, size=Size(ipc=1), seed=0)
    experts = needs["experts"]
    assert isinstance(experts, ExpertsSpec)
    return experts, sum(isinstance(spec, WhiteningSpec) for spec in needs.values())


def header(name: str) -> list[str]:
    lines = scenario.find(name).read_text().splitlines()
    return lines[: next(row for row, line in enumerate(lines) if not line.startswith("#"))]


@pytest.mark.parametrize("name", scenario.shipped())
def test_every_scenario_decodes_with_its_methods_and_their_recipes(name: str):
    values = scenario.load(name).plain()
    sets = [made["method"] for made in values.get("sets", {}).values()]
    compared = [{"name": name, **options} for name, options in values.get("methods", {}).items()]
    methods = [values["method"]] if "method" in values else [*sets, *compared]
    assert methods
    assert all(decode_method(each).recipe.network for each in methods)


def test_the_presets_are_those_of_the_tables():
    shipped = {name for name in scenario.shipped() if re.search(r"-ipc\d+-", name) and parts(name)[2] in TABLES}
    assert shipped == {*CARDS, *SMALL}


@pytest.mark.parametrize("name", CARDS)
def test_a_preset_has_the_values_of_its_table(name: str):
    cell, (_, config) = CARDS[name], preset(name)
    found = Cell(
        N=config.syn_steps,
        M=config.expert_epochs,
        start=config.first_epoch,
        reach=None if config.range_start == config.last_epoch else config.range_start,
        end=config.last_epoch,
        growth=config.range_growth if "range_growth" in config.model_fields_set else None,
        batch=config.batch_syn,
        lr_img=config.lr_img,
        lr_label=config.lr_label if config.soft_labels else None,
        lr_lr=config.lr_lr,
        step=config.lr_student,
        zca=config.zca,
        ema=config.ema,
    )
    assert found == cell


@pytest.mark.parametrize("name", CARDS)
def test_a_preset_has_what_its_method_has_in_every_cell(name: str):
    data, ipc, method = parts(name)
    values, config = preset(name)
    assert (values.ipc, values.data, values.method["name"]) == (ipc, FOLDERS.get(data, data), method)
    assert values.image_size == (DATA[data][0][1] if data in FOLDERS else None)
    assert (config.steps, config.experts, config.training.epochs) == (STEPS[method], 100, EPOCHS[method])
    assert (config.momentum, config.augmentation, config.training.augmentation) == (0.5, "auto", "auto")
    assert values.protocol == PROTOCOLS[method]
    _, _, network, statistics = DATA[data]
    challenge = values.protocol == "challenge-2024"
    assert config.recipe.network == ("convnet-3" if challenge else network)
    assert config.statistics == statistics
    assert config.gradient == ("tesla" if method == "tesla" else "auto")
    assert values.nets == (3 if challenge or method == "tesla" else 5)
    sgd = (config.training.learning_rate, config.training.momentum, config.training.weight_decay)
    assert (*sgd, config.training.batch_size, config.training.decay) == (0.01, 0.0, 0.0, 256, False)


@pytest.mark.parametrize("name", CARDS)
def test_experts_are_flat_where_the_paper_has_them_so(name: str):
    _, _, method = parts(name)
    sharpness = preset(name)[1].training.sharpness
    if method in ("mtt", "tesla"):
        assert sharpness is None
        return
    assert sharpness is not None
    gap = 1.0 if method == "ftd" and name not in ("cifar10-ipc1-ftd", "cifar10-ipc10-ftd") else 0.3
    assert (sharpness.rho, sharpness.alpha) == (0.01, gap)


@pytest.mark.parametrize("name", [name for name in CARDS if parts(name)[2] in ("datm", "m-datm")])
def test_difficulty_is_aligned_as_published(name: str):
    _, config = preset(name)
    assert config.threshold == (1.1 if name == "cifar10-ipc1-datm" else 1.0)
    assert config.initial == ("random" if name == "cifar100-ipc50-datm" else "right")
    assert config.soft_labels == (parts(name)[2] == "datm")
    assert config.range_below is None


@pytest.mark.parametrize("name", SMALL)
def test_what_a_cpu_can_do_has_the_defaults_but_for_what_is_listed(name: str):
    data, ipc, own = parts(name)
    values, config = preset(name)
    assert config == method(own, recipe={"network": DATA[data][2]}, **SMALL[name])
    assert (values.data, values.ipc, values.protocol, values.nets) == (data, ipc, "mtt-1000", 3)


@pytest.mark.parametrize("name", [*CARDS, *SMALL])
def test_the_experts_have_every_epoch_that_is_matched(name: str):
    _, config = preset(name)
    experts, whitenings = experts_of(name)
    matched = (config.first_epoch, config.last_epoch - 1 + config.expert_epochs)
    assert (experts.first, experts.kept_to) == ((0, 100) if config.keep == "all" else matched)
    shared = config.name == "datm" and name in CARDS
    assert (config.keep == "all") == shared, "the presets of DATM share their experts"
    assert experts.kept_to <= config.training.epochs
    assert experts.end == (
        config.training.epochs if config.initial == "right" or config.soft_labels else experts.kept_to
    )
    assert whitenings == config.zca


@pytest.mark.parametrize("name", [*CARDS, *SMALL])
def test_the_comment_says_what_it_takes_and_who_scores_it(name: str):
    lines, (values, _) = header(name), preset(name)
    assert 2 <= len(lines) <= 4
    megabytes = experts_of(name)[0].nbytes() / 1e6
    shown = f"{megabytes:,.0f}" if megabytes >= 1 else f"{megabytes:.1f}"
    assert f"Experts take {shown} MB" in lines[2]
    assert f"protocol {values.protocol} (" in lines[2]
    assert ("(CPU" if name in SMALL else "(GPU)") in lines[0]
    assert f", {values.ipc} a class (" in lines[0]
    assert len(name) + len(lines[0].lstrip("# ")) <= 73  # a line of `list scenarios` in 80 columns


# protocol and epochs of its networks, where pixels start, augmentation; DC's code has other loops for each size
GRADIENTS = {"dc": ("plain-300", 300, "noise", "none"), "dsa": ("dm-1000", 1000, "real", "auto")}
LOOPS = {1: (1, 1), 10: (10, 50), 50: (50, 10)}


@pytest.mark.parametrize("name", [f"cifar10-ipc{ipc}-{kind}" for ipc in LOOPS for kind in GRADIENTS])
def test_gradients_are_matched_as_published(name: str):
    _, ipc, kind = parts(name)
    values = scenario.load(name).values
    assert isinstance(values, DistillScenario)
    config = decode_method(values.method)
    assert isinstance(config, GradientMatchingConfig)
    protocol, epochs, initial, augmentation = GRADIENTS[kind]
    assert (values.data, values.ipc, values.protocol, values.nets) == ("cifar10", ipc, protocol, 5)
    assert config.loops_for(Size(ipc=ipc), 10) == LOOPS[ipc]
    assert (config.steps, config.lr_img, config.momentum, config.lr_net) == (1000, 0.1, 0.5, 0.01)
    assert (config.batch_real, config.batch_net, config.initial, config.augmentation) == (
        256,
        256,
        initial,
        augmentation,
    )
    assert (config.distance, config.matched, config.learns, config.formation) == ("cosine", "layers", "synthetic", 1)
    assert (config.recipe.network, config.recipe.epochs, config.recipe.augmentation) == (
        "convnet-3",
        epochs,
        augmentation,
    )
    assert not config.clamp


def test_every_scenario_of_gradient_matching_is_looked_at():
    shipped = {name for name in scenario.shipped() if name.endswith(("-dc", "-dsa"))}
    assert shipped == {*(f"cifar10-ipc{ipc}-{kind}" for ipc in LOOPS for kind in GRADIENTS), "digits-ipc10-dsa"}


# batch, rate, iterations, r_BN, first BN, crop, flip, jitter: as read in SRe2L's code
RECOVERY = {
    "cifar100-ipc50-sre2l": (100, 0.25, 1000, 0.01, 10, None, False, (0, 4)),
    "tiny-imagenet-ipc50-sre2l": (100, 0.1, 4000, 1, 10, (0.08, 1), True, (-4, 4)),
    "imagenet-ipc50-sre2l": (100, 0.25, 4000, 0.01, 10, (0.08, 1), True, (0, 32)),
}
# epochs, rate, weight decay, batch, warm-up
SQUEEZE = {"cifar100-ipc50-sre2l": (200, 0.1, 5e-4, 128, 0), "tiny-imagenet-ipc50-sre2l": (50, 0.2, 1e-4, 256, 5)}


@pytest.mark.parametrize("name", RECOVERY)
def test_images_are_recovered_as_published(name: str):
    values = scenario.load(name).values
    assert isinstance(values, DistillScenario)
    config = decode_method(values.method)
    assert isinstance(config, SRe2LConfig)
    batch, rate, iterations, weight, first, crop, flip, jitter = RECOVERY[name]
    recover = config.recover
    assert (recover.batch_size, recover.learning_rate, recover.iterations) == (batch, rate, iterations)
    assert (recover.r_bn, recover.first_bn, recover.crop, recover.flip) == (weight, first, crop, flip)
    assert (recover.jitter, recover.betas, recover.initial, recover.tv, recover.l2) == (
        jitter,
        (0.5, 0.9),
        "noise",
        0,
        0,
    )
    assert (values.ipc, config.recipe.network, config.teacher.network) == (50, "torchvision:resnet18", None)
    teacher = config.teacher
    if name in SQUEEZE:
        settings = (teacher.epochs, teacher.learning_rate, teacher.weight_decay, teacher.batch_size, teacher.warmup)
        assert (*settings, teacher.momentum) == (*SQUEEZE[name], 0.9)
    else:
        assert (teacher.weights, teacher.epochs) == ("published", 0)
        assert (config.recipe.epochs, config.recipe.batch_size) == (300, 1024)


def test_every_scenario_of_squeeze_and_recover_is_looked_at():
    shipped = {name for name in scenario.shipped() if name.endswith("-sre2l")}
    assert shipped == {*RECOVERY, "digits-ipc10-sre2l"}


def test_krr_st_is_run_as_published():
    """As read in the published code; the teacher by solo-learn's settings, since the paper's are not public."""
    values = scenario.load("transfer-cifar100-krr-st").values
    assert isinstance(values, TransferScenario)
    (made,) = values.sets.values()
    config = decode_method(made.method)
    assert isinstance(config, KRRSTConfig)
    assert (made.images, made.labels, values.data, values.images) == (1000, False, "cifar100", None)
    assert (config.steps, config.learning_rate, config.batch_real, config.ridge) == (160_000, 1e-4, 1024, 1e-6)
    assert (config.networks, config.online_steps, config.pool, config.inputs) == (10, 1000, "paper", "normalised")
    recipe = config.recipe
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 1e-3)
    assert (recipe.epochs, recipe.batch_size, recipe.loss, recipe.schedule) == (1000, 256, "mse", "constant")
    assert config.teacher == solo_learn("barlow-twins")
    tuned = values.scores[0]
    assert isinstance(tuned, FineTuning)
    assert (tuned.steps, tuned.learning_rate, tuned.weight_decay, tuned.batch_size) == (10_000, 0.01, 5e-4, 256)

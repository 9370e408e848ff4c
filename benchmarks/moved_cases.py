"""The cases of `nothing_moved.py`: the command lines of each, and the files that they are given. Imports no engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PARTS = ("sets", "experts", "scores", "continual-small", "quickstart")
GIVEN = "../../given"  # what `write_given` writes, seen from the folder of a case
DIGITS = "0ffac50dfbd20b21d0ebb6f43b7a6aac24e547048b4600607fbb198e01466489"  # fingerprint of the training images
CPU = ("--device", "cpu")
NARROW = "recipe.network=convnet-1-w8"

Command = tuple[str, ...]  # the words after `dd-apps`; or `train`, see `moved_side.train`


@dataclass(frozen=True)
class Case:
    """Command lines that run one after the other, in a folder and with a cache of their own.

    exits: the expected exit codes, 0 where none is given. processes: number of processes that compute in parallel.
    exempt: the reason why the results of the case may move.
    """

    part: str
    name: str
    commands: tuple[Command, ...]
    exits: tuple[int, ...] = ()
    processes: int = 1
    exempt: str = ""


# --- the cases ---------------------------------------------------------------------------------------------------


def distil(method: str, *settings: str, ipc: int = 1, data: str = "digits", options: Command = ()) -> Command:
    """The command that makes `set.safetensors`."""
    chosen = [word for setting in settings for word in ("--set", setting)]
    return ("distill", method, "--data", data, "--ipc", str(ipc), "--out", "set.safetensors", *CPU, *options, *chosen)


def distil_images(method: str, *settings: str) -> Command:
    """The command that makes a set of 12 images in all, as methods without labels need it."""
    command = distil(method, *settings)
    place = command.index("--ipc")
    return (*command[:place], "--images", "12", *command[place + 2 :])


def match(method: str, *settings: str, ipc: int = 1, data: str = "digits", options: Command = ()) -> Command:
    """`distil` by matching the trajectories of two short experts; `settings` may repeat what is set here."""
    short = ("steps=4", "syn_steps=3", "expert_epochs=1", "last_epoch=2", "experts=2", "training.epochs=3")
    flat = {"datm": ("range_start=1", "range_growth=2", "lr_label=5"), "m-datm": ("training.learning_rate=0.05",)}
    return distil(
        method,
        *(*short, "gradient=full", NARROW, *flat.get(method, ()), *settings),
        ipc=ipc,
        data=data,
        options=options,
    )


def descend(*settings: str, ipc: int = 1, options: Command = ()) -> Command:
    """`distil` by dataset distillation: few inner steps, and few networks of a pool."""
    short = ("steps=4", "epochs=2", "batch_real=64", "gradient=full", "pool=2", "pretraining.epochs=1")
    return distil("dataset-distillation", *short, f"{NARROW}-nonorm", *settings, ipc=ipc, options=options)


def evaluate(made: str, *words: str, nets: int = 2) -> Command:
    """The command that scores the set of the case `made`."""
    return ("evaluate", f"../{made}/set.safetensors", "--nets", str(nets), *CPU, *words)


def train(made: str, **changes: object) -> Command:
    """The command that trains a network on the set of the case `made`, by its recipe with `changes`."""
    return ("train", f"../{made}/set.safetensors", json.dumps(changes))


def sets() -> Iterator[Case]:
    """A set of each method, and of each way to make one that has code of its own."""
    grey, colour = f"folder:{GIVEN}/grey", f"folder:{GIVEN}/colour"
    weights = f'{{distribution="xavier", count=1, pretraining={{source="{DIGITS}", name="digits", epochs=1}}}}'
    search = ("steps=3", "networks=2", "batch_real=100", f"{NARROW}-nonorm", "recipe.epochs=3")
    features = (f"{NARROW}-batchnorm", "teacher.epochs=1", "teacher.warmup=0", "teacher.projector=[8, 6]")
    learned = ("steps=3", "networks=2", "online_steps=2", "batch_real=32")
    taught = (f"{NARROW}-batchnorm", "teacher.epochs=1", "teacher.views.padding=1")
    commands = {
        **{name: distil(name, ipc=2) for name in ("random", "herding", "k-means", "average")},
        "herding-features": distil("herding", "features=random-network", NARROW, ipc=2),
        "optimized": distil("optimized", *search),
        "optimized-pretrained": distil(
            "optimized", *search, "recipe.initialisation=pretrained", f"recipe.weights={weights}"
        ),
        "dm": distil("dm", "steps=4", "batch_real=16", NARROW, ipc=2),
        "dm-batch-norm": distil("dm", "steps=4", "batch_real=16", f"{NARROW}-batchnorm", ipc=2),
        "dm-parts": distil("dm", "steps=2", "batch_bytes=300000", NARROW, data=colour, options=("--image-size", "12")),
        "dm-tiles": distil("dm", "steps=4", "batch_real=16", NARROW, "formation=2", "clamp=true", ipc=2),
        "dc": distil("dc", "steps=3", "outer=2", "inner=2", "batch_real=16", NARROW, ipc=2),
        "dc-real": distil("dc", "steps=2", "outer=2", "learns=real", "inner=2", "distance=mse", f"{NARROW}-batchnorm"),
        "dsa": distil("dsa", "steps=3", "outer=2", "inner=2", "batch_real=16", NARROW, ipc=2),
        "dsa-parts": distil("dsa", "steps=2", "outer=2", "inner=1", "batch_bytes=1", "formation=2", NARROW, ipc=2),
        "dataset-distillation": descend("blocks=2", "networks=2", ipc=2),
        "dataset-distillation-clipped": descend("clip=0.1", "lr_rates=0.01", "decay_every=2"),
        "dataset-distillation-adjoint": descend("gradient=adjoint"),
        "dataset-distillation-truncated": descend("gradient=truncated", "window=1"),
        "dataset-distillation-pretrained": descend("start=random-pretrained"),
        "dataset-distillation-fixed": descend("start=fixed"),
        "dataset-distillation-fixed-pretrained": descend("start=fixed-pretrained"),
        "dataset-distillation-attack": descend("start=fixed-pretrained", 'attack=["4", "9"]'),
        "dataset-distillation-adapting": descend("start=random-pretrained", options=("--pretrain-on", grey)),
        **{name: match(name, ipc=2) for name in ("mtt", "ftd", "datm", "m-datm", "tesla")},
        "mtt-zca": match("mtt", "zca=true"),
        "mtt-features": match("mtt", "also=features", "batch_real=16"),
        "mtt-gradients": match("mtt", "also=gradients", "batch_real=16"),
        "mtt-adjoint": match("mtt", "gradient=adjoint"),
        "mtt-truncated": match("mtt", "gradient=truncated", "window=2", "cosine_every=2"),
        "mtt-colour": match("mtt", "statistics=imagenet", "batch_syn=2", data=colour, options=("--image-size", "12")),
        "mtt-lenet": match("mtt", "recipe.network=lenet", "recipe.initialisation=xavier"),
        "datm-options": match("datm", "ema=0.9", "range_below=0.9", "training.dtype=bfloat16", "batch_syn=5"),
        "tesla-parts": match("tesla", "batch_syn=5", "zca=true", ipc=2),
        "sre2l": distil("sre2l", *taught, "recover.iterations=4", "recover.batch_size=6", "recover.crop=[0.5, 1.0]"),
        "sre2l-real": distil("sre2l", *taught, "recover.iterations=3", "recover.initial=real", "recover.tv=0.001"),
        "rded": distil("rded", *taught, "mosaic.images=20", "mosaic.crops=2"),
        "krr-st": distil_images("krr-st", *features, *learned),
        "krr-st-labels": distil_images("krr-st", *features, *learned, "objective=labels", "pool=as-shipped"),
        "four-seeds-on": match("mtt", options=("--seed", "4")),
        "unequal": ("distill", "random", "--data", "digits", "--images", "13", "--out", "set.safetensors", *CPU),
    }
    for name, command in commands.items():
        yield Case("sets", name, (command,))
    for name, command in (("dm", commands["dm"]), ("datm", commands["datm"])):
        # the limit holds for experts too: they have to be there for a run to be stopped after its first step
        first = tuple("first.safetensors" if word == "set.safetensors" else word for word in command)
        limited = (*command, "--time-limit", "0")
        yield Case("sets", f"{name}-resumed", (first, limited, command), exits=(0, 4, 0))
    there = ("export", "set.safetensors", "--format", "mtt", "--out", "there")
    back = ("import", "there", "--format", "mtt", "--data", "digits", "--out", "back.safetensors")
    yield Case("sets", "exchanged", (commands["dm"], there, back))


def experts() -> Iterator[Case]:
    """Artefacts that are made once for many runs; the sets of these cases take no outer step."""
    flat = "training.sharpness={rho=0.02, alpha=0.5}"
    settings = {
        "experts": ("training.momentum=0.5", "training.weight_decay=0.001", "training.decay=true"),
        "experts-bfloat16": ("training.dtype=bfloat16", "keep=all"),
        "experts-gsam": (flat,),
        "experts-gsam-bfloat16": (flat, "training.dtype=bfloat16", "training.momentum=0.5"),
        "experts-zca": ("zca=true", "training.augmentation=none"),
        "experts-xavier": ("recipe.initialisation=xavier", "experts_seed=3"),
        "experts-deep": ("recipe.network=convnet-2-w8-groupnorm-leakyrelu-maxpool", "training.batch_size=100"),
        "experts-sigmoid": ("recipe.network=convnet-2-w8-layernorm-sigmoid-nopool", "training.batch_size=100"),
        "experts-alexcifarnet": ("recipe.network=alexcifarnet", "training.batch_size=500"),
    }
    for name, chosen in settings.items():
        yield Case("experts", name, (match("mtt", "steps=0", *chosen),))
    commands = {
        "weights": descend("steps=0", "start=fixed"),
        "weights-default": descend("steps=0", "start=fixed", "recipe.initialisation=default", "start_seed=3"),
        "weights-pretrained": descend(
            "steps=0", "start=random-pretrained", "pretraining.epochs=2", "pretraining.decay_every=1"
        ),
        "weights-alexcifarnet": descend("steps=0", "start=random-pretrained", "recipe.network=alexcifarnet"),
    }
    for name, command in commands.items():
        yield Case("experts", name, (command,))
    two = (*match("mtt", "steps=0"), "--workers", "2")
    yield Case("experts", "experts-by-two", (two,), processes=2)


def scores() -> Iterator[Case]:
    """Sets that are scored, then their scores by each protocol, network and start."""
    weights = f'{{distribution="default", count=1, pretraining={{source="{DIGITS}", name="digits", epochs=1}}}}'
    short = ("recipe.epochs=20", "recipe.batch_size=4")
    made = {
        "plain-set": distil("random", NARROW, *short, "recipe.augmentation=auto"),
        "adam-set": distil("random", NARROW, *short, "recipe.optimiser=adamw", "recipe.schedule=cosine"),
        "pretrained-set": distil(
            "random", NARROW, *short, "recipe.initialisation=pretrained", f"recipe.weights={weights}"
        ),
        "soft-set": match("datm", ipc=2),
        "white-set": match("mtt", "zca=true", "recipe.epochs=20"),
        "ordered-set": descend("blocks=2", ipc=2),
        "fixed-set": descend("start=fixed"),
        "attack-set": descend("start=fixed-pretrained", 'attack=["4", "9"]'),
    }
    for name, command in made.items():
        yield Case("scores", name, (command,))
    for name in made:
        yield Case("scores", f"{name}-scored", (evaluate(name), train(name)))
    yield Case("scores", "trained", tuple(learners()))
    narrow = ("--network", "convnet-1-w8")
    for protocol in ("plain-300", "dm-1000", "mtt-1000", "wang-grid", "knn"):
        yield Case("scores", protocol, (evaluate("plain-set", "--protocol", protocol),))
    yield Case("scores", "datm-soft", (evaluate("soft-set", "--protocol", "datm-soft"),))
    for name in ("plain-set", "white-set"):
        yield Case("scores", f"challenge-2024-{name}", (evaluate(name, "--protocol", "challenge-2024", *narrow),))
    networks = ("convnet-1-w8-batchnorm", "convnet-2-w8-groupnorm-leakyrelu", "lenet", "alexcifarnet")
    chosen = [word for network in networks for word in ("--network", network)]
    yield Case("scores", "networks", (evaluate("plain-set", *chosen),))
    yield Case("scores", "vision-transformer", (evaluate("plain-set", "--network", "timm:test_vit"),))
    yield Case("scores", "start-xavier", (evaluate("fixed-set", "--start", "xavier"),))
    yield Case("scores", "start-pretrained", (evaluate("plain-set", "--start", "pretrained"),))
    yield Case("scores", "start-default", (evaluate("pretrained-set", "--start", "default"),))
    yield Case("scores", "attack-elsewhere", (evaluate("attack-set", "--start", "default"),))
    yield Case("scores", "seed-and-workers", (evaluate("plain-set", "--seed", "3", "--workers", "2"),), processes=2)
    yield Case("scores", "grid-by-two", (evaluate("soft-set", "--protocol", "knn", "--workers", "2"),), processes=2)
    for task in ("distill", "study"):
        yield Case("scores", f"scenario-{task}", (("run", f"{GIVEN}/{task}.toml", "--out", "out", *CPU),))
    dropping = "torchvision:squeezenet1_1"
    yield Case(
        "scores",
        "dropout",
        (evaluate("plain-set", "--network", dropping), train("plain-set", network=dropping, epochs=3)),
        exempt="a network with dropout: where in an epoch it is seeded may change",
    )


def learners() -> Iterator[Command]:
    """Networks of each kind that are trained, and recipes with each optimiser, schedule, augmentation and loss."""
    for norm in ("nonorm", "batchnorm", "layernorm", "groupnorm-leakyrelu", "maxpool", "nopool-sigmoid"):
        yield train("plain-set", network=f"convnet-2-w8-{norm}", epochs=5)
    for network in ("convnet-w64", "lenet", "alexcifarnet", "timm:test_vit", "timm:test_resnet"):
        yield train("plain-set", network=network, epochs=3)
    for kind in ("color", "crop", "cutout", "flip", "scale", "rotate"):
        yield train("plain-set", epochs=5, augmentation=kind)
    yield train("plain-set", epochs=5, augmentation="flip_scale_rotate", align_corners=False)
    for optimiser in ("sgd", "adamw"):
        for schedule in ("constant", "step", "cosine"):
            yield train("plain-set", epochs=5, optimiser=optimiser, schedule=schedule, weight_decay=0.01)
    yield train("soft-set", epochs=5, temperature=2.0, initialisation="xavier")


def tables() -> Iterator[Case]:
    """Class-incremental learning: a small scenario, and the quickstart's."""
    command = ("run", f"{GIVEN}/continual.toml", "--workers", "1", "--out", "out", *CPU)
    yield Case("continual-small", "continual", (command,))
    stored = ("--set", "replay.share=stored", "--set", 'rows=["distilled", "real", "none"]', "--set", "orders=1")
    yield Case("continual-small", "continual-stored", ((*command, *stored),))
    yield Case("quickstart", "quickstart", (("quickstart", "--workers", "2", "--out", "out"),), processes=2)


CASES = (*sets(), *experts(), *scores(), *tables())

SCENARIOS = {
    "distill": """
        task = "distill"
        data = "digits"
        ipc = 1
        nets = 2
        protocol = "plain-300"
        networks = ["convnet-1-w8", "lenet"]
        method = { name = "dm", steps = 3, batch_real = 16, recipe = { network = "convnet-1-w8" } }
    """,
    "study": """
        task = "study"
        data = "digits"
        classes = [2, 4]
        label_noise = [0.0, 0.2]
        nets = 2
        protocol = "knn"
        method = { name = "dm", steps = 2, batch_real = 16, recipe = { network = "convnet-1-w8" } }
    """,
    "continual": """
        task = "continual"
        data = "digits"
        experiences = 3
        orders = 2
        images_per_class = 2
        network = "convnet-1-w8"
        rows = ["distilled", "dataset-distillation", "mtt", "k-means", "herding", "real", "real-adaptive", "joint"]
        method = { name = "dm", steps = 5, batch_real = 16, recipe = { network = "convnet-1-w8" } }
        retraining = { epochs = 20 }
        replay = { epochs = 1 }
        [others.dataset-distillation]
        steps = 3
        epochs = 2
        batch_real = 64
        gradient = "full"
        recipe = { network = "convnet-1-w8" }
        [others.mtt]
        steps = 3
        syn_steps = 2
        expert_epochs = 1
        last_epoch = 2
        experts = 2
        training = { epochs = 3 }
        gradient = "full"
        recipe = { network = "convnet-1-w8" }
    """,
}


def write_given(folder: Path) -> None:
    """Write scenarios and class folders of noise: ten classes of grey 8x8 images, and three of coloured 20x16 ones."""
    import numpy as np
    from PIL import Image

    draws = np.random.default_rng(0)
    for name, classes, shape in (("grey", 10, (8, 8)), ("colour", 3, (16, 20, 3))):
        for index in range(12 * classes):
            path = folder / name / f"class-{index % classes}" / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draws.integers(256, size=shape, dtype=np.uint8)).save(path)
    for name, text in SCENARIOS.items():
        (folder / f"{name}.toml").write_text(text)

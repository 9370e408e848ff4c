"""Wang et al.'s third experiment in small form: a trained network is adapted to other classes by one image of each.

    python benchmarks/adaptation.py --data folder:CIFAR10 --target folder:TINY_IMAGENET_32 [--copy TEXT] [--small]

A ConvNet-3, 32 wide, is trained on CIFAR-10 and saved in a file. The target has the first ten classes of Tiny-ImageNet
at 32x32, whose validation images are the test. `dataset-distillation` learns one image a class, from which that
network, with a new last layer, learns the target (the paper: AlexNet, PASCAL-VOC and CUB-200). Baselines are as many
random real images in as many steps, at the learned rates; both from a network with initial weights; and fine-tuning on
all images. Appends to benchmarks/results/adaptation.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, append, facts, now
from safetensors.torch import save_file

from dd_apps.transfer.fine_tuning import fine_tune
from dd_apps.transfer.settings import FineTuning
from dd_core import datasets
from dd_core.distilled import Size
from dd_core.evaluation import evaluate
from dd_core.exchange import with_weights_kept
from dd_core.images import LabelledImages
from dd_core.methods import method
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions, distill
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages
from dd_core.training import accuracy, train

NAME, NETWORK, CLASSES = "adaptation", "convnet-3-w32", 10
METHOD: dict[str, Any] = {
    "steps": 400,
    "epochs": 5,
    "batch_real": 256,
    "lr_img": 0.01,
    "lr_inner": 0.01,
    "clip": 1.0,
    "gradient": "adjoint",
    "recipe": {"network": NETWORK, "initialisation": "default"},
}


def main() -> None:
    """Train, distil, compare."""
    options = parse()
    begun = time.monotonic()
    known, known_test = loaded(options.data)
    target, test = (images.of_classes(range(CLASSES)) for images in loaded(options.target))
    run = RunOptions(device="cpu", workers=Workers(count=options.workers), reporter=Messages(print))
    network, knows = trained(known, known_test, epochs=1 if options.small else 6)
    weights = options.out / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, weights)
    record: dict[str, Any] = {"source_accuracy": knows, "training_images": len(target), "test_images": len(test)}
    steps = {"steps": 3} if options.small else {}
    from_file = {"start": "fixed-pretrained", "pretraining": {"weights": str(weights), "epochs": 0}}
    for name, start in {"trained": from_file, "first weights": {"start": "fixed"}}.items():
        config = with_weights_kept(method("dataset-distillation", **{**METHOD, **steps, **start}))
        out = options.out / f"{name.replace(' ', '-')}.safetensors"
        ds = distill(config, target, Size(ipc=1), out=out, options=run)
        scored = evaluate(
            ds, train=target, test=test, nets=2 if options.small else 10, device="cpu", workers=run.workers
        )
        record[name] = {
            "accuracy": scored.accuracy.mean,
            "before": None if scored.before is None else scored.before.mean,
            "random_real": list(scored.random_real.per_network),
            "verdict": scored.verdict.word,
            "p": scored.verdict.p,
        }
    settings = FineTuning(steps=5 if options.small else 2000, batch_size=64)
    record["fine_tuned"] = fine_tune(network, target, test, settings=settings, device="cpu").accuracy
    record["minutes"] = round((time.monotonic() - begun) / 60, 1)
    print(json.dumps(record))
    given = {name: getattr(options, name) for name in ("data", "target", "workers", "small")}
    given |= {"copy": f'"{options.copy}"'}
    append(options.results, {**facts(NAME, given, run=options.begun, data=options.copy), **record})


def loaded(data: str) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images, in memory."""
    train_images, test_images = (datasets.load(data, split=split) for split in ("train", "test"))
    assert isinstance(train_images, LabelledImages)
    assert isinstance(test_images, LabelledImages)
    return train_images, test_images


def trained(images: LabelledImages, test: LabelledImages, *, epochs: int) -> tuple[torch.nn.Module, float]:
    """A network that was trained on all images, and its accuracy on the test images."""
    counts = images.labels.bincount().tolist()
    recipe = Recipe(network=NETWORK, learning_rate=0.02, epochs=epochs, batch_size=128, augmentation="flip_crop")
    whole = distill(
        method("random", recipe=recipe.model_dump()), images, Size.of(counts), options=RunOptions(device="cpu")
    )
    network = train(whole, device="cpu")
    return network, accuracy(network, test, whole.input_form(), device=torch.device("cpu"))


def parse() -> argparse.Namespace:
    """The parsed options; `results` is the file of records, `begun` the time at which the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", default="cifar10", help="images that the network is trained on")
    parser.add_argument("--target", required=True, help="folder:DIR of the images that the network is adapted to")
    parser.add_argument("--copy", default="original pixels", help="which copies of the data these are, in words")
    parser.add_argument("--workers", type=int, default=1, help="one-thread jobs that run in parallel")
    parser.add_argument("--small", action="store_true", help="try it out; its figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench-{NAME}"), help="folder of all that is kept")
    options = parser.parse_args()
    if options.small:
        options.out /= "small"
    options.out.mkdir(parents=True, exist_ok=True)
    options.results = (options.out if options.small else RESULTS) / "adaptation.jsonl"
    options.begun = now()
    return options


if __name__ == "__main__":
    main()

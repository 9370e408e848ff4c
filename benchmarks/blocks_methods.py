"""Blocks of REPRODUCIBILITY: one row for each method, and where random real images win."""

from __future__ import annotations

from cells import Record, bold, newest, paragraph, records, score, table

from dd_core.evaluation import verdicts

DIGITS = {  # row of the records: setting, command
    "dm": (
        "1 a class",
        "`dd-apps distill dm --data digits --ipc 1 --set steps=300 --out dm.safetensors`, then `dd-apps evaluate "
        "dm.safetensors`",
    ),
    "average": ("1 a class", "the same with `average`, without `--set`"),
    "k-means": ("10 a class", "the same with `k-means --ipc 10`"),
    "herding": ("10 a class", "the same with `herding --ipc 10`"),
    "dataset-distillation": (
        "1 a class, random initialisations, defaults, 20 held-out networks, its own 10 steps and rates",
        "`dd-apps distill dataset-distillation --data digits --ipc 1 --out w.safetensors`, then `dd-apps evaluate "
        "w.safetensors --nets 20`",
    ),
}


def ahead(evaluation: Record) -> str | None:
    """The verdict on a set beside its random-real twin: "ahead", "behind", "no difference", or None."""
    ours, twins = (evaluation[who]["per_network"] for who in ("accuracy", "random_real"))
    return verdicts.new_draw(ours, twins).word


def pair(evaluation: Record) -> tuple[str, str]:
    """The set's score, bold where it is ahead of its twin by more than noise, and the twin's, likewise."""
    verdict = ahead(evaluation)
    ours, twin = score(evaluation["accuracy"]), score(evaluation["random_real"])
    return bold(ours, when=verdict == "ahead"), bold(twin, when=verdict == "behind")


def methods() -> list[str]:
    """One row for each method and setting that runs on digits."""
    lines = records("digits")
    rows: list[tuple[str, ...]] = []
    for name, (setting, command) in DIGITS.items():
        found = newest([line for line in lines if line["evaluation"]["protocol"] == "recipe"], row=name)
        network = f"`{found['evaluation']['network']}`"
        rows.append((f"`{name}`", setting, network, *pair(found["evaluation"]), f"{found['seconds']:.0f}", command))
    return table(["method", "digits", "network", "ours", "random-real twin", "s to distil", "command"], rows)


def longer() -> list[str]:
    """The accuracy with random images that are trained on for more than the ten steps of `dataset-distillation`."""
    lines = [line for line in records("digits") if line["evaluation"]["protocol"] == "plain-300"]
    found = newest(lines, row="dataset-distillation")["evaluation"]
    return paragraph(
        f"""The ten steps of `dataset-distillation` are learned with its images, and too few for others: trained for 300
        epochs instead (`--protocol plain-300`), random images reach {score(found["random_real"])}, and the images that
        it learned {score(found["accuracy"])}."""
    )


def digits_dm() -> list[str]:
    """Where random real images win, and the networks on which they do not."""
    lines = [line for line in records("digits") if line["row"] == "networks"]
    words = {"ahead": "ahead", "behind": "*behind*", "no difference": "no difference", None: "no verdict"}
    evaluations = {line["evaluation"]["network"]: line["evaluation"] for line in lines}
    scores = ", ".join(
        f"`{network}` {score(found['accuracy'])} against {score(found['random_real'])} ({words[ahead(found)]})"
        for network, found in evaluations.items()
    )
    return paragraph(
        f"""Where random real images have the higher mean: the one network with batch norm that was tried. The pixels
        of `dm` spread wider than real ones (standard deviation 2.5 where real inputs have 1; looked at once, no
        record), so that running statistics taken from them may not fit real images. `dd-apps run digits-dm` has
        (protocol `plain-300`, 3 networks): {scores}."""
    )


def everything() -> list[str]:
    """The accuracy with nearly all training images, with which sets of ten images a class are compared."""
    found = newest(records("digits"), row="everything")["evaluation"]
    return paragraph(
        f"""What there is to win: 1,350 of the 1,438 training images have {score(found["accuracy"])} under `mtt-1000`
        (another 1,350: {score(found["random_real"])}; `dd-apps distill random --data digits --ipc 135 --set
        recipe.network=convnet-w32 --set recipe.augmentation=auto --set recipe.learning_rate=0.02
        --out all.safetensors`, then `dd-apps evaluate all.safetensors --protocol mtt-1000 --nets 3`)."""
    )


BLOCKS = {"methods": methods, "longer": longer, "digits-dm": digits_dm, "everything": everything}

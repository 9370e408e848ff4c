"""Blocks of REPRODUCIBILITY: Wang et al. (2018) on MNIST, and their CIFAR-10 in a small form."""

from __future__ import annotations

from blocks_methods import ahead
from cells import Record, bold, bullets, newest, paragraph, percent, records, score, signed, table

from dd_core.evaluation import verdicts

REGIMES = {
    "fixed": "fixed: one draw",
    "random": "random: any draw",
    "mnist, random-pretrained": "any network pre-trained on MNIST",
    "mnist, fixed-pretrained": "one of them",
    "digits to mnist, random-pretrained": "digits to MNIST, any",
    "digits to mnist, fixed-pretrained": "digits to MNIST, one",
    "mnist to digits, random-pretrained": "MNIST to digits, any",
    "mnist to digits, fixed-pretrained": "MNIST to digits, one",
}
PUBLISHED = {"fixed": " (authors' README: 94)"}


def evaluation(**wanted: str | int) -> Record:
    """The evaluation of the only record that has these values."""
    return newest(records("mnist"), **wanted)["evaluation"]


def grid(regime: str, baseline: str, seed: int = 0) -> Record:
    """The scores of real images under the paper's grid of settings, with the initial networks of a regime."""
    return evaluation(what="baseline", name=regime, protocol="wang-grid", baseline=baseline, baseline_seed=seed)


def mnist() -> list[str]:
    """A row for each regime; bold where the set is ahead of random real images, whichever way those are trained."""
    header = ["networks start", "distilled", "before they see it", "random real, the set's rates"]
    header += ["random real, grid", "one more draw, grid", "class averages, grid", "`optimized`, grid"]
    return table(header, [_row(regime, words) for regime, words in REGIMES.items()])


def _row(regime: str, words: str) -> list[str]:
    own, draws = evaluation(what="own", name=regime), grid(regime, "random")
    searched = [found for seed in range(3) if (found := _optimized(regime, seed)) is not None]
    return [
        words,
        bold(score(own["accuracy"]), when=is_ahead(own, draws)) + PUBLISHED.get(regime, ""),
        score(own["before"]) if own["before"] else "",
        score(own["random_real"]),
        score(draws["random_real"]),
        score(draws["accuracy"]),
        score(grid(regime, "average")["accuracy"]),
        " / ".join(percent(found["accuracy"]["mean"]) for found in searched),
    ]


def _optimized(regime: str, seed: int) -> Record | None:
    wanted = {"name": regime, "protocol": "wang-grid", "baseline": "optimized", "baseline_seed": seed}
    found = [line["evaluation"] for line in records("mnist") if wanted.items() <= line.items()]
    return found[-1] if found else None


def is_ahead(own: Record, draws: Record) -> bool:
    """Whether a set is ahead of random real images under its own rates, and of all draws of them under the grid."""
    ours, twins = own["accuracy"]["per_network"], draws["random_real"]["per_network"]
    searched = verdicts.new_draw(ours if len(ours) == 1 else ours[: len(twins)], twins).word
    return ahead(own) == searched == "ahead" and own["accuracy"]["mean"] > draws["accuracy"]["mean"]


def notes() -> list[str]:
    """Sentences on sets without a gain, on the cross table, and on the attack."""
    neighbours = {
        name: evaluation(baseline=name, protocol="knn") for name in ("random", "optimized", "k-means", "average")
    }
    longer = {name: evaluation(baseline=name, protocol="plain-300") for name in ("random", "optimized", "average")}
    averages, means = grid("random", "average"), grid("random", "k-means")
    known = evaluation(what="own", name="mnist, random-pretrained")
    gain = verdicts.paired(known["accuracy"]["per_network"], known["before"]["per_network"])
    any_draw = evaluation(what="own", name="random")
    same = verdicts.paired(any_draw["accuracy"]["per_network"][:3], averages["accuracy"]["per_network"])
    return bullets(
        f"""Where it is *no* gain: for any draw, class averages under the grid have {score(averages["accuracy"])}
        ({same.word} over the three networks that both were scored on), and their nearest neighbour has
        {score(neighbours["average"]["accuracy"])} with no network at all. The set for any network that knows MNIST
        already changes its accuracy by {signed(100 * gain.difference)} points (paired over ten networks:
        {gain.word}).""",
        f"""`One more draw` is one set of ten random images under the grid, the same for every
        network, where the column before it draws three. It has {_luck("fixed")} points more for the fixed network,
        {_luck("random")} for any draw and {_luck("digits to mnist, random-pretrained")} from digits to MNIST, any: such
        is the luck of a draw.""",
        f"""k-means is the class average at one image a class
        ({score(grid("fixed", "k-means")["accuracy"])}, {score(means["accuracy"])}). kNN: random
        {score(neighbours["random"]["accuracy"])}, `optimized` {score(neighbours["optimized"]["accuracy"])}, twins
        {score(neighbours["random"]["random_real"])}; 300 epochs of SGD instead of the grid: averages
        {score(longer["average"]["accuracy"])}, `optimized` {score(longer["optimized"]["accuracy"])}, random
        {score(longer["random"]["accuracy"])} and, other draws, {score(longer["random"]["random_real"])}.""",
        f"""The cross table. The fixed set has {own("fixed")} on its network, {cross("fixed", "xavier")} on other draws
        and {cross("fixed", "pretrained")} on pre-trained ones. The random one: {own("random")}, and
        {cross("random", "pretrained")} on pre-trained ones. For any pre-trained:
        {cross("mnist, random-pretrained", "xavier")} on fresh ones. For one of them:
        {cross("mnist, fixed-pretrained", "xavier")} on fresh ones, {cross("mnist, fixed-pretrained", "pretrained")} on
        the others.""",
        f"""The attack ('1' taken for '0', one step): one network takes {attack("fixed")}; any network
        {attack("random")}, which is weak.""",
    )


def _luck(regime: str) -> str:
    found = grid(regime, "random")
    return f"{100 * (found['accuracy']['mean'] - found['random_real']['mean']):.1f}"


def own(regime: str) -> str:
    """A set's score on the networks that it was made for."""
    return score(evaluation(what="own", name=regime)["accuracy"])


def cross(regime: str, start: str) -> str:
    """A set's score on networks that it was not made for."""
    return score(evaluation(what="cross", name=regime, start=start)["accuracy"])


def attack(networks: str) -> str:
    """Shares of attacked images taken for zeros, and of other images that are right; (with relabelled real images)."""
    found = evaluation(what="own", name=f"attack, {networks}-pretrained")["attack"]
    shares = {key: score(found[key]) for key in ("success", "others", "success_real", "others_real")}
    return (
        f"{shares['success']} % of them, and has {shares['others']} % right of the other classes (relabelled real "
        f"images: {shares['success_real']} and {shares['others_real']})"
    )


def cifar10_wang() -> list[str]:
    """The small form on CIFAR-10."""
    line = newest(records("cifar10_wang"))
    found = line["evaluation"]
    return paragraph(
        f"""CIFAR-10 (JPEG copy), 100 images, one fixed AlexCifarNet, small form for a CPU
        ({line["config"]["batch_real"]} real images, {line["config"]["steps"]} outer iterations,
        {line["seconds"] / 60:.0f} minutes at a load average of {line["load_average"]:.0f}): {score(found["accuracy"])}
        on test images, random real images under the learned rates {score(found["random_real"])}
        ({len(found["random_real"]["per_network"])} draws): {ahead(found)}. It shows that the path works and is nothing
        to hold against the authors' 54, which want a GPU: `make bench-cifar10-wang BENCH_ARGS="--data folder:DIR --copy
        'JPEG copy' --small"`, without `--small` on a GPU."""
    )


BLOCKS = {"mnist": mnist, "mnist-notes": notes, "cifar10-wang": cifar10_wang}

"""Blocks of REPRODUCIBILITY: what was measured on a GPU.

Every figure is the newest record's. Conclusions in sentences are computed from the records, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain

from blocks_methods import pair
from blocks_tiny import ablation
from cells import Record, matching, newest, paragraph, percent, records, table, words

PAPER: Mapping[str, tuple[int, int]] = {"mtt": (5000, 50), "datm": (10_000, 100)}  # outer iterations, epochs of experts
IPC = (1, 10)
MODES = ("full", "adjoint", "truncated", "tesla")
NETWORKS = 3  # that learn from all training images
COSINE = 0.999  # to the exact gradient, from which on a precision is called usable
KINDS = ("SGD", "GSAM")
CHOSEN = ("average", "herding", "k-means", "optimized", "random")
METHODS = (*CHOSEN, "dataset-distillation", "datm", "dm", "ftd", "m-datm", "mtt", "tesla")
CAPTURED = {"graphed": "captured"}  # as records before November 28th of 2026 call it
PRECISIONS = {"float32": "float32", "tf32": "TF32", "bfloat16": "bfloat16"}


def of_part(part: str, **wanted: object) -> list[Record]:
    """The records of one part of the benchmark."""
    return matching(records("gpu"), part=part, **wanted)


def machine() -> list[str]:
    """The card, the processor, the versions and the data."""
    card, processor, cores, torch, python = (
        _each("hardware", key) for key in ("gpu", "cpu", "cores", "torch", "python")
    )
    data = words(sorted({line["data"] for line in records("gpu")})).replace("JPEG copy", "the JPEG copy")
    return paragraph(
        f"""One {card}, {processor.replace("(R)", "")}, {cores} cores, one thread in each process; Python {python},
        torch {torch}, which is not the version in `requirements.lock`. Data, where nothing else is said: {data}."""
    )


def _each(table_name: str, key: str) -> str:
    """All values of `key` in the table `table_name` of the GPU's records, in words."""
    lines = chain(records("gpu"), ablation(), records("ftd_subset"))
    return words(sorted({str(line[table_name][key]) for line in lines}))


# --- sets --------------------------------------------------------------------------------------------------------


def sets() -> list[str]:
    """A row for each method that made one image a class."""
    header = ["", "outer iterations (paper)", "experts (paper), their epochs (paper)", "protocol", "distilled"]
    header += ["with hard labels", "random-real twin", "asked", "published"]
    return table(header, [_set_row(name, *PAPER[name]) for name in PAPER])


def _set(name: str) -> Record:
    return newest(of_part(f"ipc1-{name}"), what="score")


def _set_row(name: str, steps: int, epochs: int) -> list[str]:
    line = _set(name)
    config = line["config"]
    distilled, twin = pair(line["evaluation"])
    asked = f"{100 * line['asked']:.0f}: {'met' if line['met'] else 'not met'}"
    return [
        f"`{name}`",
        f"{config['steps']:,} ({steps:,})",
        f"{config['experts']} (100), {_epochs(config)} ({epochs})",
        f"`{line['protocol']}`",
        distilled,
        "not measured" if config["soft_labels"] else "its labels are hard",
        twin,
        asked,
        percent(line["published"]),
    ]


def _epochs(config: Record) -> int:
    """Epochs of an expert: the matched ones, or all of them if experts give soft labels."""
    matched = config["last_epoch"] - 1 + config["expert_epochs"]
    return config["training"]["epochs"] if config["soft_labels"] or config["initial"] == "right" else matched


def sets_notes() -> list[str]:
    """Sentences on what the sets show, and on what their minutes leave out."""
    made = {name: _set(name) for name in PAPER}
    workers = words([_workers(line) for line in made.values()])
    losses = words([f"{line['loss'][0]:.2f} to {line['loss'][1]:.2f} for `{name}`" for name, line in made.items()])
    alone = _ways("SGD")["one after another"]["experts_a_minute"]
    return paragraph(
        f"""{made["mtt"]["nets"]} networks, test images, last epoch; bold: ahead of the twin by more than noise. The
        matching loss, as the mean of the first and of the last 100 outer iterations, went from {losses}. The published
        figures are those of the original pixels, and the best of many looks at the test images. The experts of both
        sets, and most iterations of `mtt`, were made at the same time by two processes on one GPU, with {workers}
        workers. That slows each of them: {_side_by_side():.1f} experts a minute for `mtt`, where one process that has
        the GPU to itself makes {alone:.0f}. So the minutes of these records say nothing."""
    )


def _workers(line: Record) -> str:
    found = re.search(r"--workers (\d+)", line["command"])
    return found[1] if found else "1"


def _side_by_side() -> float:
    """Experts a minute of the slowest run that trained those of `mtt`; other runs found them in the cache."""
    slowest = max(of_part("ipc1-mtt", what="prepared"), key=lambda line: line["minutes_to_make_or_find"])
    return slowest["experts"] / slowest["minutes_to_make_or_find"]


def full_data() -> list[str]:
    """The accuracy of ConvNet-3 on all training images, over the networks that were finished."""
    line = of_part("full-data")[-1]
    each = line["per_network"]
    networks = f"{len(each)} of {NETWORKS} networks: the time limit cut off the rest" if len(each) < NETWORKS else ""
    return paragraph(
        f"""ConvNet-3 that learns from all 50,000 training images has {percent(line["accuracy"])} % on the test images
        ({words([percent(value) for value in each])}; {networks or f"{NETWORKS} networks"}), after
        {line["config"]["epochs"]} epochs of the recipe of `dm-1000`. Published: {percent(line["published"])} % on the
        original pixels."""
    )


# --- steps -------------------------------------------------------------------------------------------------------


def methods() -> list[str]:
    """Milliseconds and MiB of an outer step of each method."""
    header = [""] + [cell for ipc in IPC for cell in (f"{ipc} a class: inner steps", "ms", "MiB")]
    names = dict.fromkeys(line["method"] for line in of_part("methods"))
    return table(header, [_method_row(name) for name in names])


def _method_row(name: str) -> list[str]:
    cells = [f"`{name}`"]
    for ipc in IPC:
        line = newest(of_part("methods"), method=name, ipc=ipc)
        config = line["config"]
        inner = config.get("syn_steps") or config.get("blocks", 0) * config.get("epochs", 0)
        cells += [f"{inner}" if inner else "none", f"{line['ms']:,.0f}", f"{line['excess_mib']:,.0f}"]
    return cells


def modes() -> list[str]:
    """A row for each number of images, number of inner steps, and precision."""
    found = of_part("steps", what="modes")
    keys = sorted({(line["images"], line["inner_steps"]) for line in found})
    header = ["images", "N", "precision", *(f"`{mode}`" for mode in MODES)]
    rows = [
        [f"{images}", f"{steps}", text, *(_mode(line["modes"][mode]) for mode in MODES)]
        for images, steps in keys
        for precision, text in PRECISIONS.items()
        for line in [newest(found, images=images, inner_steps=steps, precision=precision)]
    ]
    return table(header, rows)


def _mode(values: Record) -> str:
    return f"{values['ms']:,.0f}; {values['excess_mib']:,.0f}; {values['cosine']:.4f}"


def modes_notes() -> list[str]:
    """Sentences on which claims hold, and which do not."""
    few, many = (newest(of_part("steps", what="claims"), images=images) for images in (10, 100))
    memory, time = "adjoint_memory_80_over_10", "adjoint_time_over_full_at_30"
    return paragraph(
        f"""In float32, `adjoint` takes {few[memory]:.2f} times the memory at N = 80 that it takes at N = 10 with 10
        images, and {many[memory]:.2f} times with 100; asked was at most {few[f"{memory}_asked"]}:
        {_met((few, many), memory)}. It keeps the weights of each inner step, {_kept():.1f} MiB, which is much beside 10
        images. The time of `adjoint` over that of `full` at N = 30 is {few[time]:.2f} and {many[time]:.2f}; asked was
        at most {few[f"{time}_asked"]}. With 10 images {_again()} {_bfloat16()} TF32 is usable
        {_everywhere("tf32")}. {_slower()}"""
    )


def _met(claims: Iterable[Record], name: str) -> str:
    return ", ".join(f"{'met' if claim[f'{name}_met'] else 'not met'} with {claim['images']}" for claim in claims)


def _mode_of(images: int, steps: int, precision: str = "float32") -> Mapping[str, Record]:
    line = newest(of_part("steps", what="modes"), images=images, inner_steps=steps, precision=precision)
    return line["modes"]


def _kept() -> float:
    """MiB by which `adjoint` grows with each inner step."""
    short, long = (_mode_of(10, steps)["adjoint"]["excess_mib"] for steps in (10, 80))
    return (long - short) / (80 - 10)


def _again() -> str:
    """A sentence on more measurements of the ratio, of the engine's steps beside faster ones, and on their spread."""
    modes_beside = [line["modes"] for line in _faster() if line["precision"] == "float32"]
    ratios = words([f"{found['adjoint']['ms'] / found['full']['ms']:.2f}" for found in modes_beside])
    times = sorted(found["full"]["ms"] for found in [*modes_beside, _mode_of(10, 30)])
    return (
        f"the same run has {len(modes_beside)} more measurements of it: {ratios}. "
        f"Times are unsteady: `full` took {times[0]:.0f} to {times[-1]:.0f} ms there, so compare times within a row."
    )


def _exact(line: Record) -> float:
    """The smaller cosine of the two exact modes."""
    return min(line["modes"][mode]["cosine"] for mode in ("full", "adjoint"))


def _bfloat16() -> str:
    unusable = [line for line in of_part("steps", what="modes", precision="bfloat16") if _exact(line) < COSINE]
    if not unusable:
        return "bfloat16 is usable everywhere."
    where = [
        f"{images} images at N = {words([_at(line) for line in matching(unusable, images=images)])}"
        for images in sorted({line["images"] for line in unusable})
    ]
    return f"bfloat16 is *not* usable with {words(where)}: the cosine of an exact mode is below {COSINE}."


def _at(line: Record) -> str:
    return f"{line['inner_steps']} ({_exact(line):.4f})"


def _everywhere(precision: str) -> str:
    least = min(_exact(line) for line in of_part("steps", what="modes", precision=precision))
    return f"{'everywhere' if least >= COSINE else '*not* everywhere'} (least cosine of an exact mode: {least:.4f})"


def _slower() -> str:
    """How often a lower precision takes longer."""
    found = of_part("steps", what="modes")
    keys = sorted({(line["images"], line["inner_steps"]) for line in found})
    count = {
        precision: sum(_mode_of(*key, precision)["full"]["ms"] > _mode_of(*key)["full"]["ms"] for key in keys)
        for precision in ("tf32", "bfloat16")
    }
    return (
        f"`full` takes longer than in float32 in {count['tf32']} of {len(keys)} rows in TF32, and in "
        f"{count['bfloat16']} in bfloat16: with so few images the time seems to be that of launching kernels."
    )


# --- faster ------------------------------------------------------------------------------------------------------


def _faster() -> list[Record]:
    """The newest record of each number of images, way and precision that was reached."""
    found = [line | {"how": CAPTURED.get(line["how"], line["how"])} for line in of_part("steps", what="faster")]
    reached = [line for line in found if "modes" in line]
    return list({(line["images"], line["how"], line["precision"]): line for line in reached}.values())


def faster() -> list[str]:
    """A row for each number of images, way and precision that was reached."""
    header = ["images", "inner steps", "precision", "ms", "ms of `full`", "ms of `adjoint`"]
    header += ["over `full`", "over `adjoint`", "MiB", "cosine", "s, MiB to build"]
    return table(header, [_faster_row(line) for line in _faster()])


def _faster_row(line: Record) -> list[str]:
    ours = line["modes"].get(line["how"]) or line["modes"]["graphed"]
    theirs = [f"{line['modes'][mode]['ms']:.0f}" for mode in ("full", "adjoint")]
    ratios = [f"{line[f'over_{mode}']:.2f}" for mode in ("full", "adjoint")]
    built = f"{line['seconds_to_build']:.1f}, {line['mib_to_build']:.0f}"
    rest = [f"{ours['excess_mib']:.0f}", f"{ours['cosine']:.4f}", built]
    return [
        str(line["images"]),
        line["how"],
        PRECISIONS[line["precision"]],
        f"{ours['ms']:.0f}",
        *theirs,
        *ratios,
        *rest,
    ]


def faster_notes() -> list[str]:
    """Sentences on the results in the table, and on what is missing from it."""
    captured, compiled = (_ratios(how) for how in ("captured", "compiled"))
    reached = {(line["how"], line["precision"]) for line in _faster()}
    missing = [
        f"{how} in {text}"
        for how in ("captured", "compiled")
        for precision, text in PRECISIONS.items()
        if (how, precision) not in reached
    ]
    cut = f" The time limit cut off the rest, which is not measured: {words(missing)}." if missing else ""
    return paragraph(
        f"""With inner steps as CUDA graphs an outer step takes {captured} of the time of `full`, compiled by Inductor
        {compiled}. These runs were made by the benchmark's own code, from which the engine's option `compile` was made;
        on a GPU the option itself was *not measured yet*.{cut}"""
    )


def _ratios(how: str) -> str:
    ratios = sorted(line["over_full"] for line in _faster() if line["how"] == how)
    return f"{ratios[0]:.2f} to {ratios[-1]:.2f}"


# --- experts -----------------------------------------------------------------------------------------------------


def experts() -> list[str]:
    """A row for each way to train several experts, and the optimisers side by side."""
    kinds = {name: _ways(name) for name in KINDS}
    header = ["", *(cell for name in kinds for cell in (f"experts a minute, {name}", "over one after another"))]
    rows = [[way, *(cell for found in kinds.values() for cell in _way_cells(found, way))] for way in kinds["SGD"]]
    return table(header, rows)


def _ways(optimiser: str) -> Mapping[str, Record]:
    return newest(of_part("experts"), optimiser=optimiser)["ways"]


def _way_cells(found: Mapping[str, Record], way: str) -> tuple[str, str]:
    return f"{found[way]['experts_a_minute']:.1f}", f"{_gain(found, way):.2f}"


def _gain(found: Mapping[str, Record], way: str) -> float:
    return found[way]["experts_a_minute"] / found["one after another"]["experts_a_minute"]


def experts_notes() -> list[str]:
    """A sentence on which way of training several experts pays off."""
    vmaps = [_gain(_ways(kind), way) for kind in KINDS for way in _ways(kind) if way.startswith("vmap")]
    streams = {kind: max(_gain(_ways(kind), way) for way in _ways(kind) if way.startswith("streams")) for kind in KINDS}
    slower = "Every `vmap` is" if max(vmaps) < 1 else "Not every `vmap` is"
    line = newest(of_part("experts"), optimiser="SGD")
    return paragraph(
        f"""An expert is {line["epochs"]} epochs, {line["steps_of_an_expert"]} steps of {line["batch"]} images under
        DSA; the figures are extrapolated from {line["extrapolated_from_steps"]} steps of each way. {slower} slower than
        one expert after another ({min(vmaps):.2f} to {max(vmaps):.2f}). CUDA streams give at most
        {streams["SGD"]:.1f} times as many experts for SGD, and {streams["GSAM"]:.1f} times for GSAM. On a GPU the
        engine trains two experts at a time on streams, since these figures were taken."""
    )


# --- repeats -----------------------------------------------------------------------------------------------------


def repeats() -> list[str]:
    """A row for each method."""
    header = ["", "experts", "pixels", "soft labels", "a network's score"]
    return table(header, [_repeat_row(name) for name in METHODS])


def _repeat(name: str) -> Record | None:
    found = of_part("repeats", method=name)
    return found[-1] if found else None


def _repeat_row(name: str) -> list[str]:
    line = _repeat(name)
    if line is None:
        return [f"`{name}`", *["not measured"] * 4]
    return [f"`{name}`", *(_apart(line.get(what)) for what in ("experts", "images", "targets", "scores"))]


def _apart(values: Record | None) -> str:
    if values is None:
        return ""
    return "same" if values["same"] else f"{values['largest']:.2g}"


def repeats_notes() -> list[str]:
    """Which methods agree byte by byte."""
    found = {name: line for name in METHODS if (line := _repeat(name)) is not None}
    same = [f"`{name}`" for name, line in found.items() if line["same"]]
    rest = [f"`{name}`" for name in METHODS if name not in found]
    apart = [line["images"]["largest"] for line in found.values() if not line["images"]["same"]]
    learn_nothing = ", which learn nothing" if all(name in CHOSEN for name in found if found[name]["same"]) else ""
    equal = sum(line["scores"]["same"] for line in found.values())
    cut = f" The time limit cut off {words(rest)}: not measured." if rest else ""
    return paragraph(
        f"""Two runs agree byte by byte for {words(same)}{learn_nothing}. For the others experts or
        pixels differ; pixels, where they do, by {min(apart):.2g} to {max(apart):.2g}, in units of the standard
        deviation of the data. A network that learned twice from one set had the same accuracy both times for {equal} of
        {len(found)} sets.{cut}"""
    )


BLOCKS = {
    "gpu-machine": machine,
    "gpu-sets": sets,
    "gpu-sets-notes": sets_notes,
    "gpu-full-data": full_data,
    "gpu-methods": methods,
    "gpu-modes": modes,
    "gpu-modes-notes": modes_notes,
    "gpu-faster": faster,
    "gpu-faster-notes": faster_notes,
    "gpu-experts": experts,
    "gpu-experts-notes": experts_notes,
    "gpu-repeats": repeats,
    "gpu-repeats-notes": repeats_notes,
}

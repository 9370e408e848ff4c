"""One side of `nothing_moved.py`: runs cases by the code of one checkout, and reads what they leave.

This file, of the new checkout, runs with either one on PYTHONPATH. Of the engine it imports the names of `dd_core`
itself and nothing else: they stay where they are while modules move.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import sys
from contextlib import redirect_stdout
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from moved_cases import CASES, Case, Command

CACHE = "cache"  # of a case, in its folder
HEAVY = ("torch._dynamo", "torchvision", "sklearn.cluster", "sklearn.datasets")  # imported once, not for each command

Record = dict[str, Any]


class Failed(Exception):
    """A command of a case has not ended with the expected exit code."""


def main() -> None:
    """Says whose code it has, then answers each line, `[case, folder]`, with the results; ends with the input."""
    answers = sys.stdout
    with redirect_stdout(sys.stderr):
        import dd_apps
        import dd_core

        for name in HEAVY:
            import_module(name)
        for name in dd_core.__all__:
            getattr(dd_core, name)
        print(json.dumps([dd_core.__file__, dd_apps.__file__]), file=answers, flush=True)
        cases = {case.name: case for case in CASES}
        for line in sys.stdin:
            name, folder = json.loads(line)
            print(json.dumps(results(cases[name], Path(folder))), file=answers, flush=True)


def results(case: Case, folder: Path) -> Record:
    """What the commands of a case answer, and what they leave in its folder; else `failure`, in a line."""
    folder.mkdir(parents=True)
    exits = case.exits or (0,) * len(case.commands)
    try:
        answers = [answer(folder, words, code) for words, code in zip(case.commands, exits, strict=True)]
        return {"answers": answers, **contents(folder)}
    except Failed as failure:
        return {"failure": str(failure)}
    except Exception as error:
        return {"failure": f"its results cannot be read: {type(error).__name__}: {last_line(str(error))}"}


def answer(folder: Path, words: Command, expected: int) -> Any:
    """What a command line prints as JSON; raises `Failed` where it has another exit code."""
    said, complained = folder / "stdout", folder / "stderr"
    if not (child := os.fork()):
        _become(folder, words)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != expected:
        raise Failed(f"{words[0]} has exit code {code}: {last_line(complained.read_text(errors='replace'))}")
    return json.loads(said.read_text())


def _become(folder: Path, words: Command) -> None:
    """Be `python -m dd_apps.cli` in `folder`, or for the word `train` a program; does not return."""
    code: Any = 1
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.stdout = sys.__stdout__
        os.environ["DD_APPS_CACHE"] = str(folder / CACHE)
        if words[0] == "train":
            print(json.dumps(train(*words[1:])))
            sys.exit()
        sys.argv = ["dd-apps", *words, "--json"]
        runpy.run_module("dd_apps.cli", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        print(end="", flush=True)
        os._exit(code if isinstance(code, int) else 1)


def train(made: str, changes: str) -> list[str]:
    """The weights of a network that is trained on a set, as digests; `changes` are those of its recipe, as JSON.

    An accuracy is a fraction of a few hundred images, and may stay where it is when weights move.
    """
    import dd_core

    ds = dd_core.read_set(Path(made))
    recipe = ds.manifest.recipe.model_dump(mode="json") | json.loads(changes)
    real = dd_core.load_data("digits") if (recipe["weights"] or {}).get("pretraining") else None
    network = dd_core.train(
        ds, recipe=dd_core.Recipe.model_validate_json(json.dumps(recipe)), seed=1, device="cpu", pretrain_on=real
    )
    return [digest(weights.numpy()) for weights in network.state_dict().values()]


def last_line(text: str) -> str:
    """The last line that a process printed."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


# --- what a case leaves ------------------------------------------------------------------------------------------


def contents(folder: Path) -> Record:
    """Sets, logged losses, figures of runs, and tensors of artefacts; what a run resumes from is left out."""
    found: Record = {"sets": {}, "losses": {}, "figures": {}, "artefacts": {}}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if {CACHE, "work"} & {*name.parts}:
            continue
        if path.suffix == ".safetensors" and path.parent.suffix != ".run":
            found["sets"][str(name)] = set_contents(path)
        elif path.name == "metrics.jsonl":
            found["losses"][str(name)] = [json.loads(line) for line in path.read_text().splitlines()]
        elif path.name == "results.json":
            found["figures"][str(name)] = json.loads(path.read_text())
    parts: dict[str, list[Record]] = found["artefacts"]  # by kind: the digests that name artefacts may change
    for path in sorted((folder / CACHE / "artefacts").rglob("part-*.safetensors")):
        parts.setdefault(path.parent.parent.name, []).append(part_contents(path))
    for several in parts.values():
        several.sort(key=json.dumps)
    return found


def set_contents(path: Path) -> Record:
    """The arrays of a set as digests, and its manifest but for what names code, versions and artefacts."""
    from dd_core import read_set

    ds = read_set(path)
    manifest = ds.manifest.model_dump(mode="json")
    made = manifest.pop("provenance") or {}
    kept = {key: made[key] for key in ("fingerprint", "source_images", "method", "size", "seed") if key in made}
    return {**arrays_in(ds), **manifest, "provenance": kept}


def arrays_in(value: Any) -> Record:
    """The arrays of a dataclass as digests, and those of dataclasses in it."""
    import numpy as np

    found: Record = {}
    for field in fields(value):
        held = getattr(value, field.name)
        if isinstance(held, np.ndarray):
            found[field.name] = digest(held)
        elif is_dataclass(held):
            found[field.name] = arrays_in(held)
    return found


def part_contents(path: Path) -> Record:
    """The tensors of an artefact's part as digests."""
    from safetensors.numpy import load_file

    return {name: digest(tensor) for name, tensor in sorted(load_file(path).items())}


def digest(array: Any) -> str:
    """Type, shape and sha256 of the bytes of an array."""
    shape = "x".join(map(str, array.shape))
    return f"{array.dtype} {shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


if __name__ == "__main__":
    main()

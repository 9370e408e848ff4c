"""The task `nas-search`: a strategy searches a space by a proxy; the best architectures come as a table and as code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from dd_apps.nas import reporting, spaces
from dd_apps.nas.config import SearchScenario
from dd_apps.nas.kit import ProxyTrial
from dd_apps.nas.preparing import Prepared, prepared
from dd_apps.nas.proxies.config import sets_of
from dd_apps.nas.search import Trial, best, search
from dd_apps.report.sections import Text
from dd_apps.task import Outcome
from dd_core import store
from dd_core.config import plain
from dd_core.errors import UserError
from dd_core.runner import RunOptions


def run_task(scenario: SearchScenario, folder: Path, options: RunOptions) -> Outcome:
    """Make the proxy's set, search, and report the best. Raises `UserError` as the parts do, and if all trials fail."""
    start = prepared(scenario, [scenario.proxy], folder=folder, options=options)
    tools = start.kit.tools()
    tools.proxy(0)  # refuses a proxy that cannot be made, which would fail every trial
    history = search(
        tools.space,
        ProxyTrial(start.kit),
        scenario.search,
        workers=options.workers,
        journal=folder / "search",
        identity=_identity(scenario, start),
        fresh=options.fresh,
        reporter=options.reporter,
    )
    leaders = best(history, scenario.best)
    if not leaders:
        raise UserError(f"all {len(history)} trials failed; {history[0].architecture}: {history[0].reason}")
    value = f"value of {scenario.proxy.called}"
    notes = [*_words(scenario, history), *start.notes()]
    plot = reporting.trajectory_plot({scenario.strategy.name: [trial.value for trial in history]}, y=f"best {value}")
    codes = [_code(start, trial) for trial in leaders]
    sections = [
        reporting.best_table([asdict(trial) for trial in leaders], value=value, notes=notes),
        plot,
        Text("code of the best architectures", "\n".join(codes), code=True),
    ]
    return Outcome(sections, start.made, {"best": _figures(leaders, codes), "history": _figures(history)})


def _identity(scenario: SearchScenario, start: Prepared) -> dict[str, JsonValue]:
    """All that determines the values of trials: the images, the proxy, and the contents of its sets' files."""
    files = sets_of(start.kit.proxies[0]).items()
    contents: dict[str, JsonValue] = {field: store.file_sha256(Path(file)) for field, file in files}
    proxy: JsonValue = plain(scenario.proxy) | {"name": scenario.proxy.called}
    return {**start.kit.tools().identity(), "proxy": proxy, "sets": contents}


def _words(scenario: SearchScenario, history: Sequence[Trial]) -> Iterator[str]:
    """Notes on the search: strategy, trials, the meaning of values, and failures."""
    when = "as each ends" if scenario.asynchronous else f"{scenario.batch} at a time"
    repeats = sum(trial.repeats is not None for trial in history)
    again = f", {repeats} of them with a sample that was tried before" if repeats else ""
    yield (
        f"{scenario.strategy.name}, {len(history)} trials{again} (seed {scenario.seed}); the strategy gets their "
        f"values {when}"
    )
    yield (
        "a value is the proxy's score of one network, and higher is better; the best of many values is flattered by "
        "chance, so train the best architectures fully before you compare them"
    )
    failed = [trial for trial in history if trial.value is None]
    if failed:
        first = failed[0]
        yield f"{len(failed)} of {len(history)} trials failed; {first.architecture}: {first.reason}"


def _code(start: Prepared, trial: Trial) -> str:
    """Lines of Python that make the network of a trial."""
    try:
        return f"# {trial.architecture}\n{spaces.code_of(start.kit.tools().space, trial.sample, seed=start.kit.seed)}"
    except UserError as error:
        return f"# {trial.architecture}: {error}\n"


def _figures(trials: Sequence[Trial], codes: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Trials for JSON, by their architectures and without samples."""
    fields = ("index", "architecture", "value", "reason", "seconds", "repeats")
    rows: list[dict[str, Any]] = [{field: getattr(trial, field) for field in fields} for trial in trials]
    return [{**row, "code": code} for row, code in zip(rows, codes, strict=True)] if codes else rows

"""Blocks of REPRODUCIBILITY: speed, memory, kills and hostile files."""

from __future__ import annotations

import statistics

from cells import Record, matching, newest, records, spread, table
from mutations import last_verdicts
from record import RESULTS


def speed() -> list[str]:
    """A row for each claim that has a record."""
    kills, checks = (
        [_kill(), *_kill_search(), *_kill_stages(), *_kill_continual(), *_kill_everything()],
        [_hostile(), _fuzzed(), _mutations(), _unroll(), _memory()],
    )
    return table(["claim", "figure", "command"], [*_tiny(), _photos(), *_presets(), *kills, *_throughput(), *checks])


def _tiny() -> list[list[str]]:
    lines = records("tiny")
    measures = ("load-first", "load-second", "random", "dm")
    first, second, chosen, learned = (newest(lines, measure=measure) for measure in measures)
    loading = (
        f"{first['load_seconds']:.1f} s and {second['load_seconds']:.1f} s at load average {first['load_average']}; "
        f"{first['peak_mib']} MiB peak, of which {first['pixel_mib']:.0f} are pixels and "
        f"{first['peak_mib_after_importing_torch']} importing torch"
    )
    config = learned["config"]
    distilling = (
        f"`random` {chosen['seconds']:.1f} s; `dm`, {learned['steps']} steps of {config['batch_real']} real images a "
        f"class, width 32: {learned['seconds']:.1f} s, {learned['peak_mib']:,} MiB"
    )
    return [
        [
            "Tiny-ImageNet-32 (100,000 JPEG, 32x32 copy) from `folder:`, first and second load",
            loading,
            '`make bench-tiny BENCH_ARGS="--data DIR"`',
        ],
        ["distilling it at 1 a class on 2 cores", distilling, "the same"],
    ]


def _presets() -> list[list[str]]:
    if not (RESULTS / "photo_presets.jsonl").exists():
        return []
    lines = {(line["method"], line["side"]): line for line in records("photo_presets")}
    rows: list[list[str]] = []
    for name in dict.fromkeys(method for method, _ in lines):
        own = [line for (method, _), line in lines.items() if method == name]
        told = "; ".join(
            f"{line['side']} px: {line['distilling_seconds']} s (forecast {line['forecast']} s), scored in "
            f"{line['evaluating_seconds']} s: {_percent(line['accuracy'])}, random real images "
            f"{_percent(line['random_real'])}"
            for line in own
        )
        threads = own[-1]["hardware"]["threads"]
        what = f"`{name} --preset photos`, {own[-1]['classes']} classes, {own[-1]['ipc']} a class, {threads} threads"
        rows.append([what, told, "`make bench-photo-presets`"])
    return rows


def _percent(score: Record) -> str:
    return spread(score["per_network"])


def _photos() -> list[str]:
    lines = records("photos")
    last = [line for line in lines if line["run"] == lines[-1]["run"]]
    peaks = "; ".join(
        f"{side} px: " + ", ".join(f"{line['dm_peak_gb']:.2f}" for line in last if line["side"] == side) + " GB"
        for side in dict.fromkeys(line["side"] for line in last)
    )
    counts = ", ".join(f"{count:,}" for count in dict.fromkeys(line["real_images"] for line in last))
    shares = [line["dm_excess_gb"] / line["dm_estimate_gb"] for line in last]
    return [
        f"one step of `dm`, its other settings default, on photographs, {counts} real images: peak of the process",
        f"{peaks} (with an evaluation at most {max(line['dm_and_evaluate_peak_gb'] for line in last):.2f}), of which "
        f"{last[-1]['interpreter_gb']:.2f} are the interpreter's; what grows is {min(shares):.2f} to "
        f"{max(shares):.2f} times what is estimated before the start",
        "`make bench-photos`",
    ]


def _control(found: Record) -> str:
    """What a benchmark of kills says of its negative control."""
    return "another seed differs" if found["control_differs"] else "*another seed does not differ*"


def _kill() -> list[str]:
    found = [line for line in records("kill") if "files" in line][-1]
    return [
        f"kill -9, {found['kills']} times through the command line, {found['aimed']} aimed at the save",
        f"{found['differing']} of {found['files']} files differ; {_control(found)}",
        "`make bench-kill`",
    ]


def _kill_search() -> list[list[str]]:
    lines = matching(records("kill"), what="search")
    if not lines:
        return []
    found = lines[-1]
    wrong = {"lost": "recorded trials lost", "run_again": "run again", "differing": "histories differ"}
    figures = [f"{found[name]} {text}" for name, text in wrong.items()]
    again = f"{found['ended_unrecorded']} that had ended in a worker, unrecorded, ran again"
    return [
        [
            f"kill -9, {found['kills']} times of {found['killed']}; {found['aimed']} aimed at the journal",
            f"{', '.join(figures)}; {again}; {_control(found)}",
            "`make bench-kill`",
        ]
    ]


def _kill_stages() -> list[list[str]]:
    lines = matching(records("kill"), what="stages")
    if not lines:
        return []
    found = lines[-1]
    within = ", ".join(f"{count} in {stage}" for stage, count in found["stages"].items())
    return [
        [
            f"kill -9, {found['kills']} times of {found['killed']}; {found['aimed']} aimed at the save; {within}",
            f"{found['differing']} of {found['pipelines']} sets and banks differ; {_control(found)}",
            "`make bench-kill`",
        ]
    ]


def _kill_continual() -> list[list[str]]:
    lines = matching(records("kill"), what="continual")
    if not lines:
        return []
    found = lines[-1]
    return [
        [
            f"kill -9, {found['kills']} times of {found['killed']}; {found['aimed']} aimed at the save",
            f"{found['differing']} of {found['runs']} outcomes differ, {found['lost']} finished jobs lost; "
            f"{_control(found)}",
            "`make bench-kill`",
        ]
    ]


def _kill_everything() -> list[list[str]]:
    lines = matching(records("kill"), what="everything")
    if not lines:
        return []
    found = lines[-1]
    return [
        [
            f"kill -9, {found['kills']} times of {len(found['jobs'])} jobs, {found['killed']}; {found['aimed']} aimed "
            "at the save",
            f"{found['differing']} of {found['runs']} outcomes (sets, artefacts, reports) differ, {found['leftovers']} "
            f"temporary files left; {_control(found)}",
            "`make bench-kill`",
        ]
    ]


def _throughput() -> list[list[str]]:
    if not (RESULTS / "nas_throughput.jsonl").exists():
        return []
    found = records("nas_throughput")[-1]
    rows: list[list[str]] = []
    texts = {
        "one": "seconds of a search in one process over those of its trials",
        "two": "how many times as fast two workers are as one process",
        "nni": "seconds of NNI's own engine, with its strategy, over those of its trials",
    }
    claimed = {"one": found["one_process"], "two": found["two_workers"]}
    for kind, text in texts.items():
        field = "speed_up" if kind == "two" else "over_own"
        figures = ", ".join(f"`{name}` {row[kind][field]:.2f}" for name, row in found["strategies"].items())
        asked = ""
        if kind in claimed:
            bound = f"at {'least' if kind == 'two' else 'most'} {claimed[kind]['asked']}"
            asked = f"; asked: {bound}, {'held' if claimed[kind]['held'] else '*not held*'}"
        rows.append([f"architecture search, trials of about half a second: {text}", figures + asked, ""])
    rows[0][-1] = "`make bench-nas-throughput`"
    return rows


def _hostile() -> list[str]:
    found = newest(records("hostile"), kind="all")
    executed = "*a canary was executed*" if found["canary_executed"] else "no canary executed"
    return [
        "malformed and hostile files",
        f"{found['refused']} of {found['files']} refused in {found['seconds']:.1f} s in one process, each in one line; "
        f"at most {found['most_bytes_read'] / 2**20:.0f} MiB read and {found['peak_bytes'] / 1e6:.0f} MB of memory "
        f"each; {executed}",
        "`make bench-hostile`",
    ]


def _fuzzed() -> list[str]:
    found = [line for line in records("hostile") if line["kind"].startswith("fuzzed ")]
    found = [line for line in found if line["run"] == found[-1]["run"]]
    files, refused, read = (sum(line[name] for line in found) for name in ("files", "refused", "read"))
    kinds = ", ".join(line["kind"].removeprefix("fuzzed ") for line in found)
    wrong = {name: sum(line[name] for line in found) for name in ("differs", "traceback", "executed")}
    peak = max(line["peak_bytes"] for line in found) / 1e6
    return [
        f"files changed by chance, seeds recorded ({kinds})",
        f"of {files:,}, {refused:,} refused in one line and {read:,} read; {wrong['differs']} differ from what they "
        f"say, {wrong['traceback']} tracebacks, {wrong['executed']} executed; at most {peak:.1f} MB of memory each",
        "`make bench-hostile`",
    ]


def _mutations() -> list[str]:
    noticed, missed = last_verdicts(records("mutations"))
    return [
        "faults planted in the code, one at a time, some of them in code that has changed since",
        f"when they were last planted, the tests noticed {len(noticed):,} of {len(noticed | missed):,}",
        "`make bench-mutations`",
    ]


def _unroll() -> list[str]:
    names = {"lenet": "LeNet", "convnet-3-w32": "ConvNet-3 width 32, 50 images"}
    found = {words: newest(records("unroll"), network=name) for name, words in names.items()}
    memory = "; ".join(f"{words}: {_excess(line['excess_mib'])}" for words, line in found.items())
    growth = " and ".join(f"{line['adjoint_memory_80_over_10']:.2f}" for line in found.values())
    time = " and ".join(f"{line['adjoint_time_over_full']:.2f}" for line in found.values())
    return [
        "gradient through 80 inner steps, memory above the loaded interpreter",
        f"{memory}; `adjoint` 80 over 10: {growth}; time of `adjoint` over `full` {time}",
        "`make bench-unroll`",
    ]


def _excess(mib: dict[str, dict[str, float]]) -> str:
    long, short = ([mib[mode][steps] for mode in ("full", "adjoint")] for steps in ("80", "10"))
    return f"`full` {long[0]:,.0f} MiB, `adjoint` {long[1]:,.0f} (10 steps: {short[0]:,.0f}, {short[1]:,.0f})"


def _memory() -> list[str]:
    lines = records("memory")
    narrow, wide = (_kept(newest(lines, what=f"expert-w{width}")) for width in (32, 128))
    full, adjoint = (_kept(newest(lines, what=f"student-{mode}-w32")) for mode in ("full", "adjoint"))
    return [
        "freed memory kept by the process, as in every run, not handed back: ratios of time and of memory above "
        "the interpreter",
        f"a step of an expert on 256 images of 32x32, ConvNet-3: width 32 {narrow}, width 128 {wide}; 30 steps of a "
        f"student and the gradient: `full` {full}, `adjoint` {adjoint}. Handed back, {_kernel(lines)} of the experts' "
        f"time is spent in the kernel, which fills {_faults(lines)} pages a step with zeros",
        "`make bench-memory`",
    ]


def _kept(line: Record) -> str:
    kept, back = line["kept"], line["handed back"]
    faster, larger = back["seconds"] / kept["seconds"], kept["excess_mib"] / back["excess_mib"]
    return f"{faster:.2f} times as fast in {larger:.2f} times the memory"


def _experts(lines: list[Record]) -> list[dict[str, float]]:
    return [newest(lines, what=f"expert-w{width}")["handed back"] for width in (32, 128)]


def _kernel(lines: list[Record]) -> str:
    shares = [found["kernel_seconds"] / found["cpu_seconds"] for found in _experts(lines)]
    return " and ".join(f"{100 * share:.0f} %" for share in shares)


def _faults(lines: list[Record]) -> str:
    return " and ".join(f"{round(found['page_faults'], -3):,.0f}" for found in _experts(lines))


def kernels() -> list[str]:
    """The speed-up of our layers over PyTorch's, by layer and order of derivative, on either device."""
    rows: list[list[str]] = []
    for device, last in _kernel_runs().items():
        for layer, what in dict.fromkeys((line["layer"], line["what"]) for line in last if line["what"] != "all"):
            lines = matching(last, layer=layer, what=what)
            used = matching(lines, used=True)
            rows.append([device, f"{layer}, {what}", _ratios(used), _ratios(matching(lines, used=False)), _lost(used)])
    return table(
        ["device", "layer", "where ours are used: cases, PyTorch's time over ours", "where PyTorch's are", "lost"], rows
    )


def _kernel_runs() -> dict[str, list[Record]]:
    """The newest whole run on each device."""
    lines = records("kernels")
    ends = {_device(line): line["run"] for line in matching(lines, what="all")}
    return {name: matching(lines, run=ends[name]) for name in sorted(ends)}


def _device(line: Record) -> str:
    return line["hardware"].get("gpu") or line["hardware"]["cpu"]


def _ratios(lines: list[Record]) -> str:
    """How many cases, and the median, least and largest ratio."""
    if not lines:
        return "-"
    found = [line["ratio"] for line in lines]
    return f"{len(found)}: {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def _lost(lines: list[Record]) -> str:
    return str(sum(line["ratio"] < 0.97 for line in lines)) if lines else "-"


def steps() -> list[str]:
    """A row for each case of both widths: the older engine's CPU time over the newer one's, and the required ratio."""
    lines = records("steps")
    last = matching(lines, run=lines[-1]["run"])
    cases = dict.fromkeys((line["what"].rsplit("-w", 1)[0], line["part"]) for line in last)
    rows: list[list[str]] = []
    for case, part in cases:
        names = (f"{case}-w32", f"{case}-w128", case)
        narrow, wide, own = (matching(last, what=name, part=part) for name in names)
        rows.append([f"{case}, {part}", _faster(narrow), _faster(wide), _faster(own), _asked(wide)])
    return table(["case", "width 32", "width 128", "its own width", "asked at 128"], rows)


def _faster(lines: list[Record]) -> str:
    """Old over new of time and memory."""
    if not lines:
        return "-"
    (line,) = lines
    ratios = line["old_over_new"]
    return f"{ratios['cpu_seconds']['median']:.2f} (memory {ratios['excess_mib']:.2f})"


def _asked(lines: list[Record]) -> str:
    asked = [line for line in lines if line.get("asked")]
    return f"{asked[0]['asked']:.2f}{'' if asked[0]['met'] else ', not met'}" if asked else "-"


def commits() -> list[str]:
    """Which commit's code made each record, the newest run of each benchmark."""
    rows = []
    for path in sorted(RESULTS.glob("*.jsonl")):
        line = records(path.stem)[-1]
        day = (line.get("when") or line["run"])[:10]
        rows.append([f"`{path.name}`", day, line.get("commit") or f"recorded in {line['recorded_in']}"])
    return table(["record", "newest run", "commit"], rows)


BLOCKS = {"speed": speed, "kernels": kernels, "steps": steps, "commits": commits}

"""Tiny-ImageNet at 32x32 from a folder: seconds to load it twice, and to distil `random` and `dm` from it.

    python benchmarks/tiny.py --data DIR      # DIR holds train/<class>/*.JPEG and val/<class>/*.JPEG

Every measurement is a process of its own, on an empty cache for the first load. Seconds of a load are those of
`datasets.load` and the fingerprint, without starting Python and importing torch, whose memory is stated
separately. The peak is that of the loading process; its decoding workers come on top, about 60 MiB each.

`dm` runs with 32 real images a class and a network of width 32; its record holds the whole config. Its default,
256 images a class (51,200 a step here) and width 128, is about a hundred times the arithmetic: minutes a step.

Each run appends lines to benchmarks/results/tiny.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "tiny.jsonl"
COPY = "Tiny-ImageNet-200 at 32x32, JPEG copy"
MEBI = 2**20


def main() -> None:
    """Measure all and append to the results."""
    options = parse()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    RESULTS.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tiny-") as folder:
        scratch = {**os.environ, "DD_APPS_CACHE": f"{folder}/cache"}
        for what in ("load-first", "load-second", "random", "dm"):
            command = [sys.executable, __file__, "--measure", what, "--data", str(options.data)]
            command += ["--dm-steps", str(options.dm_steps), "--out", f"{folder}/{what}.safetensors"]
            done = subprocess.run(command, env=scratch, stdout=subprocess.PIPE, text=True, check=True)
            record = {**common(options), **json.loads(done.stdout.splitlines()[-1])}
            print(json.dumps(record), flush=True)
            with open(RESULTS, "a") as file:
                file.write(json.dumps(record) + "\n")


def parse() -> argparse.Namespace:
    """The command line; `--measure` and `--out` are for this script's own processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/tiny-imagenet-32"), help="folder with train/, val/")
    parser.add_argument("--dm-steps", type=int, default=10, help="outer iterations of dm (the paper has 20000)")
    parser.add_argument("--measure", choices=["load-first", "load-second", "random", "dm"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.data / "train").is_dir():
        parser.error(f"--data {options.data}: no train/ there; give the folder of {COPY}")
    return options


def common(options: argparse.Namespace) -> dict[str, Any]:
    """The facts that every record carries."""
    import numpy
    import PIL

    from dd_core import __version__
    from dd_core.system import device

    return {
        "benchmark": "tiny",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python benchmarks/tiny.py --data DIR --dm-steps {options.dm_steps}",
        "data": COPY,
        "hardware": device.hardware() | {"machine_cores": os.cpu_count()},
        "load_average": round(os.getloadavg()[0], 1),  # far above the cores: others were computing too
        "versions": {"dd_apps": __version__, "numpy": numpy.__version__, "pillow": PIL.__version__},
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in this process."""
    import torch  # noqa: F401  its import is not what is measured

    after_imports = peak_bytes()
    from dd_core import datasets

    begun = time.perf_counter()
    source = datasets.load(f"folder:{options.data}", progress=lambda line: print(line, file=sys.stderr))
    fingerprint = source.fingerprint()
    loaded = time.perf_counter() - begun
    record: dict[str, Any] = {"measure": options.measure, "load_seconds": round(loaded, 2)}
    record |= {"images": len(source), "classes": len(source.classes), "shape": list(source.image_shape)}
    record |= {"fingerprint": fingerprint, "pixel_mib": pixel_mib(source)}
    if not options.measure.startswith("load"):
        record |= distil(options, source)
    return record | {
        "peak_mib": round(peak_bytes() / MEBI),
        "peak_mib_after_importing_torch": round(after_imports / MEBI),
    }


def distil(options: argparse.Namespace, source: Any) -> dict[str, Any]:
    """Distil one image a class from the loaded source."""
    from dd_core import store
    from dd_core.config import plain
    from dd_core.distilled import Size
    from dd_core.methods import decode_method
    from dd_core.runner import distill

    dm = {"steps": options.dm_steps, "batch_real": 32, "recipe": {"network": "convnet-3-w32"}}
    config = decode_method({"name": options.measure, **(dm if options.measure == "dm" else {})})
    begun = time.perf_counter()
    ds = distill(config, source, Size(ipc=1), seed=0, out=options.out)
    record: dict[str, Any] = {"seconds": round(time.perf_counter() - begun, 2), "ipc": 1, "synthetic_images": len(ds)}
    return record | {"config": plain(config), "steps": config.steps, "sha256": store.file_sha256(options.out)}


def pixel_mib(source: Any) -> float:
    """MiB of the pixels alone."""
    channels, height, width = source.image_shape
    return round(len(source) * channels * height * width / MEBI, 1)


def peak_bytes() -> int:
    """Most memory that this process ever held (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()

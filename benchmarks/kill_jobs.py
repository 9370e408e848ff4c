"""Each method and task in a small form, as commands of `dd-apps`, for `kill_everything.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """Commands of `dd-apps`, run one after the other; `{seed}` is the seed, and `scenario` the text of `job.toml`."""

    commands: Sequence[str]
    scenario: str = ""


NET = "recipe.network=convnet-1-w8"
EXPERTS = f"{NET} experts=2 syn_steps=3 expert_epochs=1 last_epoch=2 training.epochs=3 steps=6"
TEACHER = "teacher.network=convnet-2-w8-batchnorm teacher.epochs=3 recipe.epochs=3"
WITHOUT_LABELS = "teacher.network=convnet-1-w8-batchnorm teacher.epochs=2 teacher.warmup=1"
PRETRAINED = "start=random-pretrained pool=3 pretraining.epochs=1"
RECOVER = "recover.iterations=12 recover.batch_size=5"


def _distilling(method: str, settings: str, *, size: str = "--ipc 1") -> str:
    words = " ".join(f"--set {setting}" for setting in settings.split())
    return f"distill {method} --data digits {size} {words} --checkpoint-seconds 0 --seed {{seed}} --out a.safetensors"


def _distill(method: str, settings: str, *, size: str = "--ipc 1") -> Job:
    return Job([_distilling(method, settings, size=size)])


def _run(scenario: str) -> Job:
    return Job(["run job.toml --out run --set seed={seed} --workers 1"], scenario)


DM = """
name = "dm"
steps = 10
batch_real = 32
recipe = { network = "convnet-1-w8", epochs = 5 }
"""
ONE = """
[sets.one]
ipc = 1
method = { name = "random", recipe = { network = "convnet-1-w4", epochs = 2 } }
"""
DISTILL = f"""
task = "distill"
data = "digits"
ipc = 1
nets = 2
[method]
{DM}
"""
STUDY = f"""
task = "study"
data = "digits"
classes = [2, 5]
label_noise = [0.0, 0.4]
ipc = 1
nets = 2
[method]
{DM}
"""
COMPARE = f"""
task = "compare"
data = "digits"
ipcs = [1]
networks = ["convnet-1-w8"]
seeds = 3
baselines = ["random", "average"]
[methods.dm]
{DM}
"""
CONTINUAL = f"""
task = "continual"
data = "digits"
experiences = 2
orders = 1
images_per_class = 2
network = "convnet-1-w8"
rows = ["distilled", "hybrid", "real"]
[method]
{DM}
[row]
hybrid = {{ memory = "hybrid" }}
[retraining]
epochs = 5
[replay]
epochs = 1
"""
RANK = f"""
task = "nas-rank"
data = "digits"
images = 200
space = {{ name = "convnets", max_width = 32 }}
architectures = 4
truth = {{ epochs = 1 }}
proxies = [{{ kind = "distilled", set = "one", passes = 20 }}, {{ kind = "zero-cost", measure = "synflow" }}]
{ONE}
"""
SEARCH = f"""
task = "nas-search"
data = "digits"
space = {{ name = "convnets", max_width = 32 }}
validation = 0.2
proxy = {{ kind = "distilled", set = "one", passes = 20 }}
strategy = {{ name = "evolution", population_size = 4, sample_size = 2 }}
max_trials = 8
batch = 2
best = 2
{ONE}
"""
TRANSFER = f"""
task = "transfer"
data = "digits"
classes = [0, 1, 2]
images = 90
backbones = ["convnet-1-w4"]
targets = [{{ data = "digits", classes = [5, 6], train = 40, test = 30 }}]
scores = [{{ kind = "linear-probe" }}]
fractions = [0.5, 1.0]
seeds = 2
recipe = {{ epochs = 2 }}
rows = [{{ kind = "none" }}, {{ kind = "set", set = "one" }}]
{ONE}
"""

JOBS: Mapping[str, Job] = {
    "random": _distill("random", NET, size="--ipc 2"),
    "average": _distill("average", NET),
    "herding": _distill("herding", NET, size="--ipc 2"),
    "k-means": _distill("k-means", NET, size="--ipc 2"),
    "optimized": _distill("optimized", f"{NET} steps=8 batch_real=100 recipe.epochs=2"),
    "dm": _distill("dm", f"{NET} steps=20 batch_real=32"),
    "dc": _distill("dc", f"{NET} steps=8 batch_real=16"),
    "dsa": _distill("dsa", f"{NET} steps=8 batch_real=16"),
    "dataset-distillation": _distill("dataset-distillation", f"{NET} steps=8 epochs=3 batch_real=100"),
    "dataset-distillation, pre-trained": _distill(
        "dataset-distillation", f"{NET} steps=6 epochs=3 batch_real=100 {PRETRAINED}"
    ),
    "mtt": _distill("mtt", EXPERTS),
    "mtt, whitened": _distill("mtt", f"{EXPERTS} zca=true"),
    "ftd": _distill("ftd", EXPERTS),
    "datm": _distill("datm", f"{EXPERTS} range_start=1"),
    "m-datm": _distill("m-datm", EXPERTS),
    "tesla": _distill("tesla", EXPERTS),
    "sre2l and its bank": Job(
        [_distilling("sre2l", f"{TEACHER} {RECOVER}"), "relabel a.safetensors --data digits --seed {seed}"]
    ),
    "rded": _distill("rded", TEACHER, size="--ipc 2"),
    "krr-st": _distill(
        "krr-st", f"{NET}-batchnorm steps=6 batch_real=32 networks=2 {WITHOUT_LABELS}", size="--images 12"
    ),
    "evaluate": Job([_distilling("random", f"{NET} recipe.epochs=5"), "evaluate a.safetensors --nets 3 --json"]),
    "task distill": _run(DISTILL),
    "task study": _run(STUDY),
    "task compare": _run(COMPARE),
    "task continual": _run(CONTINUAL),
    "task nas-rank": _run(RANK),
    "task nas-search": _run(SEARCH),
    "task transfer": _run(TRANSFER),
}

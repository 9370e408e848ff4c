"""`DistilledBuffer` inside Avalanche's own strategies, and what `use_buffer` refuses."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from tiny_streams import SoftAverage
from torch import nn
from torch.utils.data import TensorDataset

import dd_apps.continual
from dd_apps.continual import DistilledBuffer, HybridBuffer, SoftLabelReplay, use_buffer
from dd_apps.continual.adapter import contained, silent_evaluator
from dd_core.errors import UserError

with warnings.catch_warnings():  # Avalanche sets filters for the whole process while it is imported
    from avalanche.benchmarks import nc_benchmark
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.logging import TextLogger
    from avalanche.models import FeCAMClassifier, NCMClassifier, SCRModel, TrainEvalModel
    from avalanche.training.plugins import (
        AGEMPlugin,
        BiCPlugin,
        CoPEPlugin,
        EvaluationPlugin,
        GDumbPlugin,
        GEMPlugin,
        GSS_greedyPlugin,
        MemoryFeCAMUpdate,
        MemoryNCMUpdate,
        MIRPlugin,
        RARPlugin,
        ReplayPlugin,
    )
    from avalanche.training.supervised import DER, ER_ACE, ER_AML, MER, SCR, FeatureReplay, GDumb, ICaRL, Naive


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def digits():
    """The first 40 images of each of six digits, three experiences of two classes."""
    data = load_digits(n_class=6)
    parts = [torch.tensor(data.images[data.target == label][:40]) for label in range(6)]
    images = (torch.cat(parts) / 16).float()[:, None]
    train = TensorDataset(images, torch.arange(6).repeat_interleave(40))
    train.targets = train.tensors[1]  # pyright: ignore[reportAttributeAccessIssue]
    return nc_benchmark(train, train, 3, task_labels=False, shuffle=False)


def buffer(**options) -> DistilledBuffer:
    return DistilledBuffer(6, **({"images_per_class": 1, "method": "average"} | options))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 6))


def arguments(model: nn.Module | None = None, **options):
    model = model or network()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    common = {"train_mb_size": 20, "train_epochs": 2, "evaluator": silent_evaluator()}
    return {"model": model, "optimizer": optimiser, "criterion": nn.CrossEntropyLoss()} | common | options


def measuring() -> EvaluationPlugin:
    return EvaluationPlugin(accuracy_metrics(stream=True), loggers=[TextLogger(io.StringIO())])


def train(strategy, benchmark) -> None:
    with contained(0, "test"):
        for experience in benchmark.train_stream:
            strategy.train(experience)


def test_the_three_lines_of_the_readme(digits):
    with contained(0, "test"):
        memory = DistilledBuffer(max_size=6, images_per_class=1, method="average", fill=20)
        plugin = ReplayPlugin(mem_size=6, batch_size_mem=20, storage_policy=memory)
        strategy = Naive(**arguments(plugins=[plugin], evaluator=measuring(), train_epochs=8))
        forgetful = Naive(**arguments(evaluator=measuring()))
        for experience in digits.train_stream:
            strategy.train(experience)
            forgetful.train(experience)
        with_memory, without = (
            one.eval(digits.test_stream)["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
            for one in (strategy, forgetful)
        )
    assert without < 0.4  # the last two of six classes
    assert with_memory > 0.6


def test_gdumb_trains_on_the_distilled_images_alone_and_from_the_first_weights(digits):
    plugin, memory = GDumbPlugin(mem_size=6), buffer()
    use_buffer(plugin, memory)
    strategy = Naive(**arguments(plugins=[plugin], train_epochs=60))
    initial = [parameter.clone() for parameter in strategy.model.parameters()]
    seen: list[int] = []
    strategy.plugins.insert(1, Witness(seen))
    train(strategy, digits)
    assert seen == [2] * 60 + [4] * 60 + [6] * 60  # images in each epoch
    assert all(torch.equal(a, b) for a, b in zip(initial, plugin.init_model.parameters(), strict=True))
    images, labels, _ = next(iter(torch.utils.data.DataLoader(memory.buffer, batch_size=6)))
    assert (strategy.model(images).argmax(1) == labels).all()


class Witness:
    """An Avalanche plugin that counts the images of each epoch."""

    supports_distributed = True

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    def before_training_epoch(self, strategy, **kwargs) -> None:
        self.seen.append(0)

    def before_training_iteration(self, strategy, **kwargs) -> None:
        self.seen[-1] += len(strategy.mb_x)


# --- the table of the package's page -----------------------------------------------------------------------------


class Features(nn.Module):
    """Sixteen features that are never negative, as FeCAM needs them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())

    def forward(self, images):
        return self.layers(images)


class Net(nn.Module):
    """A network whose last layer is called as BiC and RAR expect it."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classifier = Features(), nn.Linear(16, 6)

    def forward(self, images):
        return self.classifier(self.features(images))


def with_plugin(plugin, model: nn.Module | None = None, epochs: int = 8):
    return Naive(**arguments(model or Net(), plugins=[plugin], evaluator=measuring(), train_epochs=epochs))


def of_kind(kind, **options):
    return kind(**arguments(Net(), mem_size=12, evaluator=measuring(), **({"train_epochs": 8} | options)))


def with_classifier(kind, update, memory):
    model = TrainEvalModel(Features(), nn.Linear(16, 6), kind())
    return with_plugin(update(mem_size=12, storage_policy=memory), model)


def scr(memory):
    options = arguments(SCRModel(Features(), nn.Linear(16, 8)), mem_size=12, batch_size_mem=12, train_epochs=8)
    return SCR(**{name: value for name, value in options.items() if name != "criterion"} | {"evaluator": measuring()})


def bic(memory):
    return with_plugin(BiCPlugin(mem_size=12, batch_size_mem=20, stage_2_epochs=2, storage_policy=memory))


def icarl(memory):
    network = Net()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    return ICaRL(
        feature_extractor=network.features,
        classifier=network.classifier,
        optimizer=optimiser,
        memory_size=12,
        buffer_transform=None,
        fixed_memory=True,
        evaluator=silent_evaluator(),
    )


# by name: what makes a strategy of a memory, and the memory's options
STRATEGIES = {
    "SoftLabelReplay": (lambda memory: with_plugin(SoftLabelReplay(memory, batch_size_mem=20)), {}),
    "ReplayPlugin": (lambda memory: with_plugin(ReplayPlugin(12, storage_policy=memory)), {"fill": 20}),
    "RARPlugin": (lambda memory: with_plugin(RARPlugin(6, 12, storage_policy=memory), epochs=2), {}),
    "MemoryNCMUpdate": (lambda memory: with_classifier(NCMClassifier, MemoryNCMUpdate, memory), {}),
    "MemoryFeCAMUpdate": (lambda memory: with_classifier(FeCAMClassifier, MemoryFeCAMUpdate, memory), {}),
    "BiCPlugin": (bic, {"fill": 20}),
    "GDumb": (lambda memory: of_kind(GDumb, train_epochs=60), {}),
    "ER_ACE": (lambda memory: of_kind(ER_ACE, batch_size_mem=12), {"fill": 12}),
    "DER": (lambda memory: of_kind(DER, batch_size_mem=12), {"fill": 12}),
    "SCR": (scr, {}),
    "CoPEPlugin": (lambda memory: with_plugin(CoPEPlugin(12, n_classes=6, p_size=6, max_it_cnt=40)), {"fill": 20}),
    "MIRPlugin": (lambda memory: with_plugin(MIRPlugin(batch_size_mem=3, mem_size=12, subsample=12)), {}),
    "ER_AML": (lambda memory: of_kind(ER_AML, feature_extractor=Features()), {}),
    "FeatureReplay": (lambda memory: FeatureReplay(**arguments(Net(), mem_size=12, last_layer_name="classifier")), {}),
    "MER": (lambda memory: of_kind(MER), {}),
    "ICaRL": (icarl, {}),
    "AGEMPlugin": (lambda memory: with_plugin(AGEMPlugin(5, 5)), {}),
    "GEMPlugin": (lambda memory: with_plugin(GEMPlugin(5, 0.5)), {}),
    "GSS_greedyPlugin": (lambda memory: with_plugin(GSS_greedyPlugin(12, input_size=[1, 8, 8])), {}),
}
TABLE = [
    re.split(r" {2,}", line.strip()) for line in (dd_apps.continual.__doc__ or "").splitlines() if "   " in line[4:]
]
RUNS = [(name, by, one, out) for name, by, labels, out in TABLE[1:] for one in labels.split(", ")]


def test_the_table_of_the_readme_is_the_one_that_is_tried():
    lines = (Path(__file__).parents[2] / "README.md").read_text().splitlines()
    head = lines.index(f"| {' | '.join(TABLE[0])} |")
    shown = [line.strip("| ").split(" | ") for line in lines[head + 2 : head + 1 + len(TABLE)]]
    assert [[row[0].strip("`"), *row[1:]] for row in shown] == TABLE[1:]
    assert not lines[head + 1 + len(TABLE)].startswith("|")


# mosaics of real images, and a teacher that knows them
RDED = {
    "name": "rded",
    "teacher": {"network": "convnet-1-w8-batchnorm", "epochs": 8, "batch_size": 20},
    "mosaic": {"factor": 1, "images": 20, "crops": 1},
    "recipe": {"loss": "kl", "views": {"crop": [0.6, 1.0], "mix": "none"}},
}


def memory_for(kind, labels: str, fill: int | None = None):
    method = {"stored": SoftAverage(), "bank": RDED}.get(labels, "average")
    bank_epochs = 4 if labels == "bank" else None
    return kind(12, images_per_class=2, method=method, labels=labels, bank_epochs=bank_epochs, fill=fill)


def test_the_table_has_a_row_for_every_strategy_that_is_tried():
    assert [row[0] for row in TABLE[1:]] == list(STRATEGIES)
    assert {row[1] for row in TABLE[1:]} == {"argument", "use_buffer"}


@pytest.mark.parametrize("kind", [DistilledBuffer, HybridBuffer])
@pytest.mark.parametrize(("name", "by", "labels", "outcome"), RUNS, ids=lambda value: value)
def test_a_row_of_the_table_is_what_happens(name, by, labels, outcome, kind, digits):
    make, options = STRATEGIES[name]
    torch.manual_seed(0)
    if kind is HybridBuffer and labels == "bank":
        with pytest.raises(UserError, match="a bank is of distilled images"):
            memory_for(kind, labels)
        return
    memory = memory_for(kind, labels, **options)
    strategy = make(memory)
    if outcome.startswith("refused: "):
        with pytest.raises(UserError, match=outcome.removeprefix("refused: ")):
            use_buffer(strategy, memory)
        return
    if by == "use_buffer":
        use_buffer(strategy, memory)
    train(strategy, digits)
    assert sorted(memory.buffer_groups) == list(range(6))
    soft = {"hard": 0, "stored": 6 * 2 * 2 * 4, "network": 4 * 2 * (2 + 4 + 6), "logits": 12 * 2 * 6}
    soft["bank"] = 12 * 4 * (8 + 1 + 2 * 2)
    assert memory.nbytes == 12 * 64 + soft[labels]
    with contained(0, "test"):
        accuracy = strategy.eval(digits.test_stream)["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
    assert accuracy > 0.42  # a network that forgets knows two of six classes


def test_bic_alone_breaks_on_todays_pytorch(digits, monkeypatch):
    monkeypatch.setattr("avalanche.training.plugins.bic.MultiStepLR", torch.optim.lr_scheduler.MultiStepLR)
    with pytest.raises(TypeError, match="verbose"):
        train(bic(memory_for(DistilledBuffer, "hard", 20)), digits)


def er_ace(**options):
    return ER_ACE(**arguments(mem_size=6, batch_size_mem=options.pop("batch_size_mem", 12), **options))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: Naive(**arguments()), {}, "Naive has no storage policy to replace; give it a ReplayPlugin"),
        (
            lambda: DER(**arguments(mem_size=6)),
            {},
            "DER replays outputs of its network: give it labels='logits', not 'hard'",
        ),
        (lambda: DER(**arguments(mem_size=6)), {"labels": "logits"}, "DER replays nothing before its memory fills"),
        (er_ace, {"labels": "logits"}, "ER_ACE learns classes, and the buffer has labels='logits'; use labels='hard'"),
        (
            lambda: ER_AML(**arguments(feature_extractor=network(), mem_size=6)),
            {},
            "ER_AML draws a whole mini-batch of each class",
        ),
        (lambda: MER(**arguments(mem_size=6)), {}, "MER has no storage policy to replace"),
        (lambda: GDumbPlugin(mem_size=200), {}, "GDumbPlugin has mem_size=200 and the buffer max_size=6"),
        (lambda: GDumbPlugin(mem_size=6), {"fill": 20}, "GDumbPlugin trains on the memory alone"),
        (er_ace, {}, "ER_ACE replays nothing before its memory fills a batch of 12; use fill=12"),
        (lambda: MIRPlugin(batch_size_mem=6, mem_size=6), {}, "MIR chooses 6 of more images"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(make, options, message):
    with pytest.raises(UserError, match=message) as caught:
        use_buffer(make(), buffer(**options))
    assert "\n" not in str(caught.value)


def test_a_strategy_that_knows_nothing_yet_cannot_choose_exemplars():
    memory = HybridBuffer(6, images_per_class=1, method="average", features="network")
    for make in (lambda: GDumbPlugin(mem_size=6), lambda: er_ace(batch_size_mem=6)):
        with pytest.raises(UserError, match="hands an experience to its memory before it learns it"):
            use_buffer(make(), memory)


def test_the_memory_of_soft_label_replay_is_exchanged_while_it_is_empty(digits):
    plugin, memory = SoftLabelReplay(buffer(), batch_size_mem=4), buffer(labels="network")
    use_buffer(plugin, memory)
    assert plugin.storage_policy is memory
    memory.post_adapt(Naive(**arguments()), digits.train_stream[0])
    with pytest.raises(UserError, match="SoftLabelReplay has images in its memory already"):
        use_buffer(plugin, buffer())


def test_a_memory_that_is_in_use_is_not_replaced(digits):
    plugin = GDumbPlugin(mem_size=6)
    plugin.storage_policy.post_adapt(None, digits.train_stream[0])
    with pytest.raises(UserError, match="GDumbPlugin has images in its memory already"):
        use_buffer(plugin, buffer())


def test_a_benchmark_with_more_classes_than_the_memory_has_room_for_is_refused_at_once(digits):
    for benchmark in (digits, digits.train_stream):
        plugin = GDumbPlugin(mem_size=5)
        before = plugin.storage_policy
        with pytest.raises(UserError, match="a memory of 5 images has no room for 6 classes; make max_size 6"):
            use_buffer(plugin, DistilledBuffer(5, images_per_class=1, method="average"), benchmark=benchmark)
        assert plugin.storage_policy is before
    plugin, memory = GDumbPlugin(mem_size=6), buffer()
    use_buffer(plugin, memory, benchmark=digits)
    assert plugin.storage_policy is memory

"""The table of protocols, and one that another package brings; what each of them does is in `test_evaluation`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dd_core import store
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.evaluation import EvaluationProtocol, protocols
from dd_core.methods import method
from dd_core.runner import distill

MODULE = """
from dd_core.evaluation import EvaluationProtocol


class TwoEpochsProtocol(EvaluationProtocol):
    name = "two-epochs"
    description = "two epochs, and no more"
    changes = {"epochs": 2}

    def learner(self, recipe):
        return f"short {recipe.network}"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package with a protocol, as pip would install it."""
    facts = tmp_path / "site" / "somebodys-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[dd_core.protocols]\ntwo-epochs = somebodys:TwoEpochsProtocol\n")
    (tmp_path / "site" / "somebodys.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("somebodys", None)


def test_every_name_of_the_table_is_that_of_its_class():
    for name in protocols.names():
        protocol = protocols.load(name)
        assert isinstance(protocol, EvaluationProtocol)
        assert protocol.name == name
        assert type(protocol).__name__.endswith("Protocol")


def test_an_unknown_name_is_answered_with_what_is_near():
    with pytest.raises(UserError, match=r"unknown protocol 'wang-gird'; did you mean 'wang-grid'\?"):
        protocols.load("wang-gird")


def test_only_the_neighbours_train_no_network():
    assert [name for name in protocols.names() if not protocols.load(name).trains_networks] == ["knn"]


@pytest.mark.usefixtures("installed")
def test_a_protocol_is_found_by_the_backport_of_importlib_too(monkeypatch: pytest.MonkeyPatch):
    backport = pytest.importorskip("importlib_metadata", reason="NNI's libraries bring it")
    ours = [finder for finder in sys.meta_path if not isinstance(finder, backport.MetadataPathFinder)]
    monkeypatch.setattr(sys, "meta_path", [*ours, backport.MetadataPathFinder()])
    assert protocols.names() == [*protocols.PROTOCOLS, "two-epochs"]
    assert protocols.load("two-epochs").name == "two-epochs"


@pytest.mark.usefixtures("installed")
def test_a_protocol_of_another_package_is_listed_and_scores_a_set(call):
    assert protocols.names() == [*protocols.PROTOCOLS, "two-epochs"]
    listed = json.loads(call("list", "protocols", "--json")[1])["protocols"]
    assert listed[-1] == {"name": "two-epochs", "meaning": "two epochs, and no more"}
    shown = json.loads(call("list", "protocols", "two-epochs", "--json")[1])
    assert shown == {"name": "two-epochs", "meaning": "two epochs, and no more", "epochs": 2}
    words = ["--data", "digits", "--ipc", 1, "--set", "recipe.network=convnet-1-w4"]
    assert call("distill", "random", *words, "--out", "a.safetensors")[0] == 0
    code, out, err = call("evaluate", "a.safetensors", "--nets", 1, "--protocol", "two-epochs", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["protocol"], found["network"]) == ("two-epochs", "short convnet-1-w4")
    assert "short convnet-1-w4: training 1 on the set, 1 on random real images" in err


@pytest.mark.usefixtures("installed")
def test_a_scenario_may_name_it(call):
    Path("mine.toml").write_text(
        'task = "distill"\ndata = "digits"\nipc = 1\nnets = 1\nprotocol = "two-epochs"\n'
        '[method]\nname = "random"\nrecipe.network = "convnet-1-w4"\n'
    )
    code, _, err = call("run", "mine.toml", "--out", "here")
    assert code == 0, err
    assert store.read_json(Path("here/results.json"))["evaluations"][0]["protocol"] == "two-epochs"


def test_a_protocol_that_says_nothing_changes_nothing():
    from dd_core.testing import blobs

    class Nothing(EvaluationProtocol):
        name = "nothing"
        description = "nothing is changed"

    ds = distill(method("random", recipe={"network": "lenet", "epochs": 7}), blobs(), Size(ipc=1))
    assert Nothing().recipe(ds.manifest.recipe, source_name="blobs") == ds.manifest.recipe
    assert Nothing().prepare(ds, train=blobs()) is ds
    assert Nothing().settings(images=3) == []
    assert Nothing().learner(ds.manifest.recipe) == "lenet"

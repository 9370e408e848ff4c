"""Weights from other people's files: what is read, what a network takes, and what is refused in one line."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from dd_core import networks
from dd_core.errors import UserError
from dd_core.exchange import read_weights


def network(seed: int = 0, *, classes: int = 3) -> nn.Module:
    return networks.build("resnet-8-w4", in_channels=1, classes=classes, image_size=(8, 8), seed=seed)


def torch_bytes(content: Any, *, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


STATE = network(1).state_dict()
DISTRIBUTED = {f"module.{name}": tensor for name, tensor in STATE.items()}
COMPILED = {f"_orig_mod.module.{name}": tensor for name, tensor in STATE.items()}
SGD = torch.optim.SGD(network().parameters(), lr=0.1, momentum=0.9).state_dict()
READABLE: dict[str, Callable[[], bytes]] = {
    "plain.pth": lambda: torch_bytes(STATE),
    "old.pt": lambda: torch_bytes(STATE, old=True),
    "checkpoint.pth": lambda: torch_bytes({"epoch": 7, "state_dict": STATE, "optimizer": SGD, "best": 0.5}),
    "model.PTH": lambda: torch_bytes({"model": DISTRIBUTED, "epoch": 3}),
    "another.pt": lambda: torch_bytes({"model_state_dict": OrderedDict(COMPILED)}),
    "parameters.pth": lambda: torch_bytes({**STATE, "classifier.bias": nn.Parameter(STATE["classifier.bias"])}),
    "plain.safetensors": lambda: save(STATE, {"format": "pt"}),
    "distributed.safetensors": lambda: save(DISTRIBUTED),
}


@pytest.mark.parametrize("name", READABLE)
def test_weights_are_read_bit_for_bit_by_their_plain_names(name: str, tmp_path: Path):
    weights = read_weights(written(tmp_path, name, READABLE[name]()))
    assert list(weights) == list(STATE) or name.endswith(".safetensors")
    assert weights.keys() == STATE.keys()
    assert all(
        torch.equal(weights[name], tensor) and weights[name].dtype == tensor.dtype for name, tensor in STATE.items()
    )
    assert not any(tensor.requires_grad for tensor in weights.values())
    given = network(2)
    networks.load_into(given, weights, origin="a file")
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(given.eval()(x), network(1).eval()(x))


def test_what_is_read_outlives_its_file(tmp_path: Path):
    for name in ("plain.pth", "plain.safetensors"):
        path = written(tmp_path, name, READABLE[name]())
        weights = read_weights(path)
        with open(path, "r+b") as file:
            file.write(b"\0" * path.stat().st_size)
        assert torch.equal(weights["classifier.weight"], STATE["classifier.weight"])


def test_only_a_name_that_all_have_in_common_is_taken_off(tmp_path: Path):
    path = written(tmp_path, "a.pth", torch_bytes({"module.a": torch.ones(1), "b": torch.ones(1)}))
    assert list(read_weights(path)) == ["module.a", "b"]


def test_layers_may_share_their_weights(tmp_path: Path):
    shared = torch.arange(1000.0)
    weights = read_weights(written(tmp_path, "a.pth", torch_bytes({"a": shared, "b": shared, "c": shared[::2]})))
    assert torch.equal(weights["c"], shared[::2])
    assert weights["c"].untyped_storage().nbytes() == 2000, "no view of a larger memory"


# --- hostile files ------------------------------------------------------------------------------------------------


class _Code:
    def __reduce__(self):
        return os.system, ("touch executed",)


def with_pickle(change: Callable[[bytes], bytes], content: Any) -> bytes:
    """The file of `content` with another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_bytes(content))) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return buffer.getvalue()


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


ROW = {"a": torch.ones(4)}
SIZE, STRIDE, STORAGE = b"K\x04\x85", b"K\x01\x85", b"cpuq\x06K\x04"
HUGE = b"\x8a\x06\x00\x00\x00\x00\x00\x01"  # 2^40
EXPANDED = torch.ones(1).expand(1 << 40)
HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "nothing": (".pth", lambda: b"", "damaged, or no .pth file"),
    "text": (".pt", lambda: b"hello", "it is no file of torch.save"),
    "a bare pickle of code": (".pth", lambda: pickle.dumps(_Code()), "it is no file of torch.save"),
    "code": (
        ".pth",
        lambda: torch_bytes({"a": _Code()}),
        "its pickle names 'posix system', which a network's state_dict does not need",
    ),
    "code in an old file": (".pth", lambda: torch_bytes(_Code(), old=True), "its pickle names 'posix system'"),
    "code in an old file's first words": (
        ".pth",
        lambda: torch_bytes(ROW, old=True)[:17] + pickle.dumps(_Code(), protocol=2),
        "its pickle names 'posix system'",
    ),
    "code in a newer pickle": (
        ".pth",
        lambda: with_pickle(lambda _: pickle.dumps(_Code(), protocol=4), ROW),
        "its pickle names 'a computed name'",
    ),
    "a whole network": (
        ".pth",
        lambda: torch_bytes(nn.Linear(2, 2)),
        "its pickle names 'torch.nn.modules.linear Linear'",
    ),
    "cut short": (".pth", lambda: torch_bytes(STATE)[:-100], "damaged"),
    "an old file cut short": (".pth", lambda: torch_bytes(STATE, old=True)[:-100], "damaged"),
    "a pickle too long": (
        ".pth",
        lambda: with_pickle(lambda p: p + b"0" * (17 << 20), ROW),
        "longer than that of a net",
    ),
    "many records": (
        ".pth",
        lambda: torch_bytes(ROW) + b"PK\x01\x02" * 40_100,
        "more records than a network's state_dict needs",
    ),
    "a larger shape": (".pth", lambda: with_pickle(lambda p: replaced(p, SIZE, HUGE + b"\x85"), ROW), "damaged"),
    "a larger storage": (
        ".pth",
        lambda: with_pickle(lambda p: replaced(replaced(p, STORAGE, b"cpuq\x06" + HUGE), SIZE, HUGE + b"\x85"), ROW),
        "damaged",
    ),
    "an old file's larger storage": (
        ".pth",
        lambda: torch_bytes(ROW, old=True).replace(b"K\x04", HUGE),
        "damaged",
    ),
    "a stride of zero": (
        ".pth",
        lambda: torch_bytes({"a": EXPANDED}),
        r"claim 4,398,046,511,104 bytes, and the file has",
    ),
    "an old file's stride of zero": (".pth", lambda: torch_bytes({"a": EXPANDED}, old=True), "claim 4,398,046,511,104"),
    "one storage many times": (
        ".pth",
        lambda: torch_bytes(dict.fromkeys(map(str, range(50)), torch.ones(10_000))),
        "claim 2,000,000 bytes",
    ),
    "a tensor": (".pth", lambda: torch_bytes(torch.ones(2)), "it is a Tensor, not weights by name"),
    "a list": (".pth", lambda: torch_bytes([torch.ones(2)]), "it is a list, not weights by name"),
    "no weights": (".pth", lambda: torch_bytes({}), "it is empty"),
    "something else": (".pth", lambda: torch_bytes({**ROW, "epoch": 3}), "'epoch' is a int, not a tensor"),
    "numbers for names": (
        ".pth",
        lambda: torch_bytes({0: torch.ones(1)}),
        "a tensor in it has the name 0, which is a int",
    ),
    "two networks": (
        ".pth",
        lambda: torch_bytes({"model": ROW, "state_dict": ROW}),
        "it holds several: 'state_dict' and 'model'; save one of them alone",
    ),
    "no number": (
        ".pth",
        lambda: torch_bytes({"a": torch.tensor([1, torch.nan])}),
        "'a' has a value that is not finite",
    ),
    "infinity": (".safetensors", lambda: save({"a": torch.tensor([torch.inf])}), "'a' has a value that is not finite"),
    "safetensors of nothing": (".safetensors", lambda: b"", "damaged, or no .safetensors file"),
    "safetensors cut short": (".safetensors", lambda: save(STATE)[:-1], "damaged"),
    "safetensors without tensors": (".safetensors", lambda: save({}), "it is empty"),
    "a huge header": (
        ".safetensors",
        lambda: struct.pack("<Q", 1 << 40) + b"{}",
        "its header claims 1,099,511,627,776 b",
    ),
    "a large header": (
        ".safetensors",
        lambda: struct.pack("<Q", 5 << 20) + b" " * (5 << 20),
        "header claims 5,242,880",
    ),
    "a pickle for safetensors": (".safetensors", lambda: torch_bytes(STATE), r"its header claims [\d,]+ bytes"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_file_of_weights_is_refused_in_one_line(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    suffix, make, line = HOSTILE[what]
    path = written(tmp_path, f"weights{suffix}", make())
    with pytest.raises(UserError, match=line) as refusal:
        read_weights(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "executed").exists()


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"read from \.safetensors, \.pth and \.pt files"):
        read_weights(written(tmp_path, "weights.bin", READABLE["plain.pth"]()))
    with pytest.raises(UserError, match=r"has [\d,]+ bytes, and 2,000 is the limit"):
        read_weights(written(tmp_path, "large.pth", READABLE["plain.pth"]()), limit=2000)
    with pytest.raises(UserError, match="No such file"):
        read_weights(tmp_path / "none.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(UserError, match="is no regular file"):
        read_weights(tmp_path / "pipe.pth")


# --- into a network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda state: state.pop("classifier.bias"), "'classifier.bias' is missing"),
        (lambda state: state.update(fc=torch.ones(1)), "'fc' is not in the network"),
        (
            lambda state: state.update(network(classes=5).state_dict()),
            "'classifier.weight' is (5, 16) and not (3, 16), 'classifier.bias' is (5,) and not (3,)",
        ),
        (
            lambda state: state.update({"classifier.weight": torch.ones(16, 3)}),
            "'classifier.weight' is (16, 3) and not (3, 16)",
        ),
        (
            lambda state: state.update({"classifier.bias": torch.ones(3, dtype=torch.int64)}),
            "'classifier.bias' is int64 and not float32",
        ),
        (
            lambda state: state.update({"classifier.bias": torch.full((3,), 1e300, dtype=torch.float64)}),
            "'classifier.bias' has a value that is no finite float32",
        ),
        (
            lambda state: [state.update({f"x{number}\n": torch.ones(1)}) for number in range(5)],
            r"'x0\n' is not in the network, 'x1\n' is not in the network, 'x2\n' is not in the network, and 2 more",
        ),
    ],
)
def test_weights_of_another_network_change_nothing(change: Callable[[dict[str, torch.Tensor]], object], line: str):
    given, state = network(2), dict(STATE)
    change(state)
    with pytest.raises(UserError) as refusal:
        networks.load_into(given, state, origin="a.pth")
    assert str(refusal.value) == f"a.pth: not the weights of this network: {line}"
    assert all(torch.equal(tensor, network(2).state_dict()[name]) for name, tensor in given.state_dict().items())


def test_batch_norms_of_before_2018_count_no_batches():
    given, old = network(2), {name: tensor for name, tensor in STATE.items() if "num_batches" not in name}
    networks.load_into(given, old, origin="a.pth")
    assert torch.equal(given.state_dict()["features.1.running_mean"], STATE["features.1.running_mean"])


def test_weights_are_in_the_networks_precision():
    given = network(2)
    networks.load_into(
        given,
        {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in STATE.items()},
        origin="a",
    )
    assert given.state_dict()["classifier.weight"].dtype == torch.float32
    assert torch.equal(given.state_dict()["classifier.weight"], STATE["classifier.weight"].half().float())

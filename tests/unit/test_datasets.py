"""Named data sets: the digits, torchvision's from files that are there, and the errors of what is not."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from dd_core import datasets
from dd_core.datasets import unpacked
from dd_core.errors import OutOfResources, UserError
from dd_core.images import require_labels


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without one: no name is resolved, no connection made."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def write_idx(path: Path, values: np.ndarray) -> None:
    """LeCun's format: 0, 0, type 8 (bytes), number of dimensions, each dimension as 4 bytes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = b"".join(side.to_bytes(4, "big") for side in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + shape + values.astype(np.uint8).tobytes())


def write_mnist(raw: Path, *, train: int = 20, test: int = 10) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": draw.integers(0, 256, (train, 28, 28)),
        "train-labels-idx1-ubyte": np.arange(train) % 10,
        "t10k-images-idx3-ubyte": draw.integers(0, 256, (test, 28, 28)),
        "t10k-labels-idx1-ubyte": np.arange(test) % 10,
    }
    for name, values in arrays.items():
        write_idx(raw / name, values)
    return arrays


@pytest.fixture
def unpublished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files of ours are taken for MNIST and its kin."""
    monkeypatch.setattr(unpacked, "PUBLISHED", {})


# --- digits --------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_own_and_every_grey_level_can_be_told() -> None:
    pixels, labels = load_digits(return_X_y=True)
    train, test = datasets.load("digits"), datasets.load("digits", split="test")
    assert (len(train), len(test)) == (1438, 359)
    assert train.image_shape == (1, 8, 8)
    assert train.classes == tuple("0123456789")
    expected = {(row.astype(int).tobytes(), int(label)) for row, label in zip(pixels, labels, strict=True)}
    found: set[tuple[bytes, int]] = set()
    for source in (train, test):
        images = source.take(torch.arange(len(source))).view(len(source), 64)
        levels = (images.double() * 16 / 255).round().to(torch.int64)
        assert torch.equal(levels.double().mul(255 / 16).round().to(torch.uint8), images)
        found |= {
            (row.numpy().tobytes(), label) for row, label in zip(levels, require_labels(source).tolist(), strict=True)
        }
    assert found == expected
    assert max(int(batch.max()) for batch in train.batches(100)) == 255


def test_the_split_of_the_digits_is_stratified_and_fixed() -> None:
    test = datasets.load("digits", split="test")
    assert torch.bincount(require_labels(test)).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert test.fingerprint() == datasets.load("digits", split="test").fingerprint()


def test_image_size_resizes_bicubically() -> None:
    source = datasets.load("digits", image_size=12)
    assert source.image_shape == (1, 12, 12)
    first = datasets.load("digits").take(torch.tensor([0]))[0, 0].numpy()
    expected = Image.fromarray(first).resize((12, 12), Image.Resampling.BICUBIC)
    assert np.array_equal(source.take(torch.tensor([0]))[0, 0].numpy(), np.asarray(expected))
    same = datasets.load("digits", image_size=8)
    assert same.fingerprint() == datasets.load("digits").fingerprint()


# --- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifra10", "unknown data set 'cifra10'; did you mean 'cifar10'?"),
        ("folder:", "folder: needs a path"),
        ("folder:PATH", "there is no such folder"),
    ],
)
def test_an_unknown_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        datasets.load(name)
    assert message in str(caught.value)


def test_a_path_without_folder_is_understood(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"for the images in that folder: folder:{tmp_path}"):
        datasets.load(str(tmp_path))


def test_wrong_splits_and_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="unknown split 'tset'; did you mean 'test'"):
        datasets.load("digits", split="tset")
    with pytest.raises(UserError, match="at least 1, not 0"):
        datasets.load("digits", image_size=0)
    with pytest.raises(UserError, match=r"digits at image_size=200 is 0.1 GiB, above the limit of 0.0 GiB"):
        datasets.load("digits", image_size=200, memory_limit=10**6)


def test_every_name_has_a_meaning_and_the_table_needs_no_torch() -> None:
    code = (
        "import sys; from dd_core.datasets import DATASETS; assert all(DATASETS.values());"
        "sys.exit(bool({'torch', 'torchvision', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- torchvision's -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "split", "folder", "files"),
    [
        ("mnist", "train", "MNIST/raw", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]),
        ("fashion-mnist", "test", "FashionMNIST/raw", ["train-images-idx3-ubyte.gz"]),
        ("kmnist", "train", "KMNIST/raw", ["train-images-idx3-ubyte.gz"]),
        ("usps", "test", "", ["usps.t.bz2"]),
        ("cifar10", "train", "", ["cifar-10-python.tar.gz"]),
        ("cifar100", "train", "", ["cifar-100-python.tar.gz"]),
        ("svhn", "test", "", ["test_32x32.mat"]),
        ("stl10", "train", "", ["stl10_binary.tar.gz"]),
    ],
)
def test_without_a_network_the_files_and_their_folder_are_named(
    tmp_path: Path, name: str, split: str, folder: str, files: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        datasets.load(name, split=split, root=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name} cannot be downloaded (")
    assert message.endswith(f" into {tmp_path / folder}")
    assert all(file in message for file in files)
    assert "\n" not in message
    assert [file.name for file in tmp_path.iterdir()] == [f".{name}.lock"]


@pytest.mark.usefixtures("no_network", "unpublished")
def test_files_that_are_there_are_loaded_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arrays = write_mnist(tmp_path / "MNIST/raw")
    monkeypatch.setenv("DD_APPS_DATA", str(tmp_path))
    train, test = datasets.load("mnist"), datasets.load("mnist", split="test")
    assert train.image_shape == (1, 28, 28)
    assert train.classes == tuple("0123456789")
    assert train.name == "mnist"
    expected = torch.from_numpy(arrays["train-images-idx3-ubyte"].astype(np.uint8))
    assert torch.equal(train.take(torch.arange(20))[:, 0], expected)
    assert require_labels(test).tolist() == list(range(10))
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("no_network", "unpublished")
def test_fashion_has_human_class_names(tmp_path: Path) -> None:
    write_mnist(tmp_path / "FashionMNIST/raw")
    assert datasets.load("fashion-mnist", root=tmp_path).classes[:2] == ("T-shirt/top", "Trouser")


@pytest.mark.usefixtures("no_network", "unpublished")
def test_names_of_classes_are_known_without_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_APPS_DATA", str(tmp_path / "none"))
    write_mnist(tmp_path / "FashionMNIST/raw")
    assert datasets.class_names("fashion-mnist") == datasets.load("fashion-mnist", root=tmp_path).classes
    assert datasets.class_names("digits") == datasets.load("digits").classes
    assert datasets.class_names("svhn") == datasets.class_names("usps") == tuple("0123456789")
    assert [datasets.class_names("cifar10").index(name) for name in ("automobile", "deer", "truck")] == [1, 4, 9]
    assert [datasets.class_names("stl10").index(name) for name in ("car", "monkey", "truck")] == [2, 7, 9]
    names = datasets.class_names("cifar100")
    assert (len(names), list(names)) == (100, sorted(names))
    # the labels of CIFAR-100's superclasses "aquatic mammals" and "trees"
    assert [names[label] for label in (4, 30, 55, 72, 95)] == ["beaver", "dolphin", "otter", "seal", "whale"]
    assert {names[label].partition("_")[2] for label in (47, 52, 56, 59, 96)} == {"tree"}
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="unknown data set 'cifar'; did you mean 'cifar10'"):
        datasets.class_names("cifar")


@pytest.mark.usefixtures("no_network")
def test_an_archive_with_a_wrong_checksum_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"put cifar-10-python.tar.gz into .* \(cifar-10-python.tar.gz there: wrong"):
        datasets.load("cifar10", root=tmp_path)
    assert (tmp_path / "cifar-10-python.tar.gz").read_bytes() == b"half of it"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server of small MNIST archives on this machine, which torchvision takes for the real one."""
    folder = tmp_path / "mirror"
    write_mnist(folder)
    resources: list[tuple[str, str]] = []
    for name, _ in torchvision.datasets.MNIST.resources:
        data = gzip.compress((folder / name.removesuffix(".gz")).read_bytes())
        (folder / name).write_bytes(data)
        resources.append((name, hashlib.md5(data).hexdigest()))
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield folder
        server.shutdown()


def test_a_download_leaves_whole_files_only(tmp_path: Path, mirror: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    leftover = root / ".mnist.partial/MNIST/raw/train-images-idx3-ubyte"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"of a download that was killed")
    source = datasets.load("mnist", root=root)
    assert len(source) == 20
    assert sorted(file.name for file in root.iterdir()) == [".mnist.lock", "MNIST"]
    output = capfd.readouterr()
    assert output.out == ""
    assert "%" in output.err  # the progress bar
    (mirror / "train-images-idx3-ubyte.gz").unlink()
    assert datasets.load("mnist", root=root).fingerprint() == source.fingerprint()


def test_a_download_that_fails_half_way_leaves_nothing(tmp_path: Path, mirror: Path) -> None:
    (mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(b"not what the checksum says")
    root = tmp_path / "data"
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*corrupted.*put train-images"):
        datasets.load("mnist", root=root)
    assert [file.name for file in root.iterdir()] == [".mnist.lock"]


@pytest.mark.usefixtures("no_network")
def test_archives_that_the_user_put_there_are_unpacked(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    (root / "MNIST/raw").mkdir(parents=True)
    for archive in mirror.glob("*.gz"):
        archive.rename(root / "MNIST/raw" / archive.name)
    assert len(datasets.load("mnist", split="test", root=root)) == 10


@pytest.mark.usefixtures("no_network")
def test_archives_that_cannot_be_unpacked_are_named(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the right checksum, and no archive all the same."""
    root = tmp_path / "data/MNIST/raw"
    root.mkdir(parents=True)
    resources: list[tuple[str, str]] = []
    for archive in sorted(mirror.glob("*.gz")):
        (root / archive.name).write_bytes(b"no archive")
        resources.append((archive.name, hashlib.md5(b"no archive").hexdigest()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    with pytest.raises(UserError, match=r"^mnist cannot be unpacked \(Not a gzipped file") as caught:
        datasets.load("mnist", root=tmp_path / "data")
    assert str(root / "train-images-idx3-ubyte.gz") in str(caught.value)
    assert "\n" not in str(caught.value)


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES = {
    "cut short": ("images", lambda data: data[:-1], "cut short: 15,695 of 15,696 bytes"),
    "empty": ("images", lambda data: b"", "cut short: 0 of 16 bytes"),
    "cut within its header": ("labels", lambda data: data[:6], "cut short: 6 of 8 bytes"),
    "too long": ("labels", lambda data: data + b"0", "29 bytes, and its header says 28"),
    "another format": ("images", lambda data: changed(data, 3), "no IDX file of bytes in 3 dimensions"),
    "more rows": ("images", lambda data: changed(data, 11), "cut short: 15,696 of 16,256 bytes"),
    "one bit of a pixel": ("images", lambda data: changed(data, 5000), None),
    "one bit of a label": ("labels", lambda data: changed(data, 20), None),
}


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("archives", ["there", "gone", "gone and unknown"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_or_unpacked_again(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch, archives: str, damage: str
) -> None:
    raw = tmp_path / "data/MNIST/raw"
    shutil.copytree(mirror, raw)
    files = {path.name: path.read_bytes() for path in raw.iterdir()}
    digests = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(unpacked, "PUBLISHED", {} if archives == "gone and unknown" else {"MNIST": digests})
    whole = datasets.load("mnist", root=tmp_path / "data").fingerprint()
    kind, change, reason = DAMAGES[damage]
    path = raw / f"train-{'images-idx3' if kind == 'images' else 'labels-idx1'}-ubyte"
    path.write_bytes(change(files[path.name]))
    if archives == "there":
        assert datasets.load("mnist", root=tmp_path / "data").fingerprint() == whole
        assert path.read_bytes() == files[path.name]
        return
    for archive in raw.glob("*.gz"):
        archive.unlink()
    assert len(datasets.load("mnist", split="test", root=tmp_path / "data")) == 10  # which does not read the file
    if archives == "gone and unknown" and reason is None:
        return  # nothing tells
    with pytest.raises(UserError) as caught:
        datasets.load("mnist", root=tmp_path / "data")
    line = str(caught.value)
    assert line.startswith(f"mnist is damaged ({path}: {reason or 'wrong checksum'}")
    assert "), and cannot be downloaded (" in line
    assert f"; put {path.name}.gz" in line or f", {path.name}.gz" in line
    assert line.endswith(f" into {raw}")
    assert path.read_bytes() == change(files[path.name])


@pytest.mark.usefixtures("no_network")
def test_a_file_that_is_not_its_archives_is_named_where_another_archive_lacks(tmp_path: Path, mirror: Path) -> None:
    raw = tmp_path / "data/MNIST/raw"
    shutil.copytree(mirror, raw)
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    path = raw / "train-labels-idx1-ubyte"
    path.write_bytes(changed(path.read_bytes(), 20))
    with pytest.raises(UserError) as caught:
        datasets.load("mnist", root=tmp_path / "data")
    assert f"({path}: its bytes are not those of train-labels-idx1-ubyte.gz)" in str(caught.value)
    assert str(caught.value).endswith(f"put t10k-labels-idx1-ubyte.gz into {raw}")


@pytest.mark.usefixtures("no_network")
def test_damaged_batches_are_named(tmp_path: Path) -> None:
    for file, _ in [*torchvision.datasets.CIFAR10.train_list, *torchvision.datasets.CIFAR10.test_list]:
        (tmp_path / "cifar-10-batches-py").mkdir(exist_ok=True)
        (tmp_path / "cifar-10-batches-py" / file).write_bytes(b"half of it")
    with pytest.raises(UserError) as caught:
        datasets.load("cifar10", root=tmp_path)
    assert str(caught.value).startswith(
        f"cifar10 is damaged ({tmp_path}/cifar-10-batches-py/data_batch_1: wrong checksum; "
    )
    assert str(caught.value).endswith(f"put cifar-10-python.tar.gz into {tmp_path}")


def test_a_damaged_archive_is_replaced_in_one_move(tmp_path: Path, mirror: Path) -> None:
    root = tmp_path / "data/MNIST/raw"
    root.mkdir(parents=True)
    damaged = root / "train-images-idx3-ubyte.gz"
    damaged.write_bytes(b"half of it")
    inode = damaged.stat().st_ino
    datasets.load("mnist", root=tmp_path / "data")
    assert damaged.read_bytes() == (mirror / damaged.name).read_bytes()
    assert damaged.stat().st_ino != inode, "was written to where it lies, and a kill would have left half of it"


@contextmanager
def at_most_bytes(size: int) -> Iterator[None]:
    """As on a full disk: no file can grow beyond `size`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("archives_are_there", [False, True])
def test_a_disk_that_fills_up_is_told(tmp_path: Path, mirror: Path, archives_are_there: bool) -> None:
    """While it downloads, or while it unpacks."""
    root = tmp_path / "data"
    if archives_are_there:
        shutil.copytree(mirror, root / "MNIST/raw", ignore=shutil.ignore_patterns("*ubyte"))
    before = sorted(root.rglob("*.gz"))
    with pytest.raises(OutOfResources) as caught, at_most_bytes(12_000):
        datasets.load("mnist", root=root)
    assert str(caught.value) == f"{root}: File too large; nothing that was there before is lost"
    assert sorted(file for file in root.rglob("*") if file.is_file()) == sorted([root / ".mnist.lock", *before])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_even_where_the_download_was_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """torchvision's second try, without TLS, fails for another reason."""

    def write(url: str, *_: object) -> None:
        raise OSError(number, os.strerror(number)) if url.startswith("https:") else URLError("refused")

    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", write)
    with pytest.raises(OutOfResources, match=re.escape(os.strerror(number))) as caught:
        datasets.load("cifar10", root=tmp_path)
    assert caught.value.exit_code == 4


def test_an_unwritable_data_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file/data: Not a directory"):
        datasets.load("mnist", root=tmp_path / "file/data")


def test_what_both_splits_of_a_folder_have_to_say_is_told_once(tmp_path: Path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(5):
            Image.fromarray(np.full((4, 4), 40 * index, np.uint8)).save(tmp_path / name / f"{index}.png")
        (tmp_path / name / "notes.heic").touch()
    lines: list[str] = []
    say = datasets.once(lines.append)
    for split in ("train", "test"):
        datasets.load(f"folder:{tmp_path}", split=split, progress=say)
    assert len([line for line in lines if "2 .heic" in line]) == 1
    assert len({*lines}) == len(lines) >= 2

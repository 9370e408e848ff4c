"""Channel statistics of a folder that streams: those of its pixels, found once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from image_trees import load, picture, pixels, put, put_classes, spoil

from dd_core import artefacts
from dd_core.datasets import folder_pixels
from dd_core.errors import UserError
from dd_core.images import InputForm, Source, channel_stats
from dd_core.system.parallel import Workers


def put_mixture(root: Path) -> None:
    """A mixture of sizes, and a channel that is constant."""
    for index, name in enumerate(("cat", "dog")):
        for number in range(6):
            put(root / name / f"{number}.png", picture(10 * index + number, size=(5 + number, 7)))


def streamed(root: Path, split: str = "train", **options: object) -> Source:
    return load(root, split, image_size=6, memory_limit=0, **options)


def kept() -> list[str]:
    return [row["digest"] for row in artefacts.listing() if row["kind"] == "channel-stats"]


@pytest.mark.parametrize("part_size", [2048, 3, 1])
def test_they_are_those_of_the_same_images_in_memory(
    root: Path, monkeypatch: pytest.MonkeyPatch, part_size: int
) -> None:
    monkeypatch.setattr(folder_pixels, "_COUNTED_FILES", part_size)
    put_mixture(root)
    loaded, source = load(root, image_size=6), streamed(root)
    assert channel_stats(source) == channel_stats(loaded)
    form = InputForm.of(source)
    assert (form.mean, form.std) == channel_stats(loaded)
    values = pixels(source).double() / 255
    torch.testing.assert_close(torch.tensor(form.mean), values.mean((0, 2, 3)).float())
    torch.testing.assert_close(torch.tensor(form.std), values.std((0, 2, 3), correction=0).float())
    assert len(kept()) == 1


def test_they_are_counted_once_for_the_same_files(root: Path) -> None:
    put_mixture(root)
    source, test = streamed(root), streamed(root, "test")
    stats = channel_stats(source)
    everything = source.subset(torch.arange(len(source)))
    spoil(root)
    assert channel_stats(source) == channel_stats(everything) == stats, "counted again"
    for other in (test, source.subset(torch.arange(3))):
        with pytest.raises(UserError, match="its content changed"):
            channel_stats(other)


def test_other_files_have_their_own(root: Path) -> None:
    put_mixture(root)
    source = streamed(root)
    some = torch.tensor([4, 1, 4])
    part = channel_stats(source.subset(some))
    loaded = load(root, image_size=6)
    assert part == channel_stats(loaded.subset(some)) != channel_stats(source)
    assert channel_stats(source.subset(some + 1)) != part
    assert len(kept()) == 3


def test_processes_count_what_one_counts(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_pixels, "_COUNTED_FILES", 4)
    put_mixture(root)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    alone = channel_stats(streamed(root))
    shutil.rmtree(cache / "artefacts" / "channel-stats")
    source = streamed(root, workers=Workers(count=2))
    counts = folder_pixels.channel_counts(source)  # pyright: ignore[reportArgumentType]
    assert counts.sum(1).tolist() == [len(source) * 36] * 3
    assert channel_stats(source) == alone


def test_a_cache_that_cannot_be_written_costs_time_only(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_classes(root)
    source = load(root, memory_limit=0)
    expected = channel_stats(load(root))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "file/cache"))
    assert channel_stats(source) == expected
    spoil(root)
    with pytest.raises(UserError, match="its content changed"):
        channel_stats(source)


def test_a_grey_folder_has_one_channel(root: Path) -> None:
    for index, name in enumerate(("cat", "dog")):
        for number in range(5):
            put(root / name / f"{number}.png", picture(10 * index + number, mode="L"))
    mean, std = channel_stats(load(root, memory_limit=0))
    assert (len(mean), len(std)) == (1, 1)
    assert (mean, std) == channel_stats(load(root))

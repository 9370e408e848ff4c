"""The journal of a folder: one process at a time, of one thing, and a line for each thing that was done."""

from __future__ import annotations

from pathlib import Path

import pytest

from dd_core.errors import Option, UserError
from dd_core.store import Journal

SEARCH = {"work": "search", "option": Option("journal"), "contents": "a search with"}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(folder=tmp_path / "new" / "folder", **SEARCH)


def test_one_process_at_a_time_removes_what_a_killed_one_left(journal: Journal):
    with journal.locked():
        leftover = journal.folder / ".identity.json.1.tmp"
        leftover.touch()
        with pytest.raises(UserError) as caught, journal.locked():
            pytest.fail("two are at work")
        assert str(caught.value) == (
            f"{journal.folder}: another search is at work here; wait for it, or use another journal"
        )
        assert leftover.exists(), "it may be of the process that is at work"
    with pytest.raises(FileNotFoundError), journal.locked():
        leftover.read_text()
    with journal.locked():
        pass  # it was released


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^\S+file/x: Not a directory$"), Journal(folder=tmp_path / "file/x").locked():
        pytest.fail("there is no folder")


def test_a_folder_says_what_it_is_of(journal: Journal):
    with journal.locked():
        assert journal.identified() is None
        journal.identify({"seed": 0})
        assert journal.identified() == {"seed": 0}
        assert (journal.folder / "identity.json").read_text() == '{\n  "seed": 0\n}\n'
        (journal.folder / "identity.json").write_text("[]")
        with pytest.raises(UserError) as caught:
            journal.identified()
    assert str(caught.value) == (
        f"{journal.folder}: its identity.json is no JSON object; use another journal, or fresh=True to start over"
    )


def test_another_identity_is_refused_key_by_key_in_the_words_of_the_caller(journal: Journal, tmp_path: Path):
    held = {"seed": 0, "proxy": {"name": "snip", "batch": 64}}
    with pytest.raises(UserError) as caught:
        journal.refuse_difference(held, {"seed": 1, "proxy": {"name": "snip", "batch": 128}})
    assert str(caught.value) == (
        f"{journal.folder}: holds a search with other settings (proxy.batch: 64 -> 128; seed: 0 -> 1); use another "
        "journal, or fresh=True to start over"
    )
    results = Journal(folder=tmp_path, contents="results of", remedy="to replace them")
    with pytest.raises(UserError) as caught:
        results.refuse_difference({"seed": 0}, {}, where=tmp_path / "a.safetensors")
    assert str(caught.value) == (
        f"{tmp_path}/a.safetensors: holds results of other settings (seed: 0 -> None); use another out, or fresh=True "
        "to replace them"
    )


def test_what_a_file_cannot_tell_apart_is_the_same(journal: Journal):
    journal.refuse_difference({"size": [8, 8]}, {"size": (8, 8)})
    journal.refuse_difference({"seed": 0}, {"seed": 0, "added later": None})


def test_records_are_kept_until_they_are_forgotten(journal: Journal):
    with journal.locked():
        assert journal.records() == []
        for step in range(3):
            journal.append({"step": step})
        path = journal.folder / "records.jsonl"
        with open(path, "a") as file:
            file.write('{"ste')  # a kill while a line was written
        assert journal.records() == [{"step": 0}, {"step": 1}, {"step": 2}]
        journal.keep()
        assert path.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'
        journal.keep(lambda record: record["step"] < 1)
        journal.append({"step": 9})
        assert journal.records() == [{"step": 0}, {"step": 9}]
        journal.identify({"seed": 0})
        journal.forget()
        assert (journal.records(), journal.identified()) == ([], None)
        journal.forget()
        assert {file.name for file in journal.folder.iterdir()} == {"lock"}


def test_a_claim_begins_or_goes_on_and_fresh_begins_again(journal: Journal):
    with journal.locked():
        journal.claim({"seed": 0})
        assert journal.identified() == {"seed": 0}
        journal.append({"index": 0})
        with open(journal.folder / "records.jsonl", "a") as file:
            file.write('{"index": 1')
        journal.claim({"seed": 0})
        journal.append({"index": 1})  # a line of its own, after one that was cut short
        assert journal.records() == [{"index": 0}, {"index": 1}]
        with pytest.raises(UserError, match=r"holds a search with other settings \(seed: 0 -> 1\)"):
            journal.claim({"seed": 1})
        (journal.folder / "identity.json").unlink()
        with pytest.raises(UserError, match=r"holds records\.jsonl and no identity\.json that says what they are; use"):
            journal.claim({"seed": 0})
        journal.claim({"seed": 1}, fresh=True)
        assert (journal.identified(), journal.records()) == ({"seed": 1}, [])

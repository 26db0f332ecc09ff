"""Records: written redacted, found again, sealed so that every change shows."""

from __future__ import annotations

import csv
import json
import os
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest

from georeg_nb import redaction, sealing
from georeg_nb.errors import RecordError
from georeg_nb.records import RUN_ID, Record, base_folder, operator, stamp
from georeg_nb.sealing import Difference, seal, verify


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record.create("fake-move", tmp_path / "records")


def test_names_sort_by_time_and_name_the_scenario(record: Record) -> None:
    assert RUN_ID.fullmatch(record.run)
    assert record.scenario == "fake-move"
    assert record.notebook.name == "fake-move.ipynb"
    assert record.path.stat().st_mode & 0o007 == 0


def test_found_by_an_unambiguous_start(record: Record) -> None:
    base = record.path.parent
    assert Record.open(record.run, base) == record
    assert Record.open(record.run[:-2], base) == record
    (base / (record.run[:-2] + "zz")).mkdir()  # no run id: not counted
    other = base / f"{record.run[:16]}-fake-move-ffff"
    other.mkdir()
    for name in ("", record.run[:16], "nothing"):
        with pytest.raises(RecordError, match=r"no record|2 records"):
            Record.open(name, base)


def test_the_base_folder_is_the_project_s_or_a_given_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "parameters").mkdir()
    (tmp_path / "notebooks" / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks" / "deep")
    monkeypatch.delenv("GEOREG_RECORDS", raising=False)
    assert base_folder() == tmp_path / "records"
    monkeypatch.setenv("GEOREG_RECORDS", str(tmp_path / "else"))
    assert base_folder() == tmp_path / "else"


def test_a_record_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="GEOREG_RECORDS"):
        Record.create("x", tmp_path / "file")


def test_everything_is_redacted_on_its_way(record: Record) -> None:
    secret = 'c4nary"/\\x'
    redaction.register(secret, "canary")
    record.write("text.txt", f"x {secret}")
    record.write_json("data.json", {"a": [secret]})
    record.append("lines.jsonl", {"a": secret})
    record.command({"argv": ["psql", secret]})
    record.progress("primary", f"copying {secret}", 0.5)
    record.kept("primary", "snapshot", {"x": secret})
    record.write_table("table", [{"a": secret, "b": {"c": secret}}])
    record.write_junit("junit.xml", {"s": [{"name": secret, "outcome": "failed", "message": secret}]})
    texts = [path.read_text() for path in record.path.rglob("*") if path.is_file()]
    assert len(texts) == 9
    assert all("c4nary" not in text for text in texts)
    assert all("[secret: canary]" in text for text in texts)


def test_tables_are_json_and_csv(record: Record) -> None:
    record.write_table("secondary.tags", [{"path": "a/b", "tags": 2}, {"path": "c, d", "tags": 3, "missing": ["x"]}])
    rows = list(csv.DictReader((record.path / "tables/secondary.tags.csv").read_text().splitlines()))
    assert rows[1] == {"path": "c, d", "tags": "3", "missing": '["x"]'}
    assert record.read_table("secondary.tags")[0] == {"path": "a/b", "tags": 2}
    with pytest.raises(RecordError, match=r"secondary\.tags"):
        record.read_table("other")
    with pytest.raises(ValueError, match="name"):
        record.write_table("../evil", [])


def test_lines_come_whole_from_many_threads(record: Record) -> None:
    def write(number: int) -> None:
        for _ in range(50):
            record.append("x.jsonl", {"n": number, "text": "y" * 2000})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(record.read_lines("x.jsonl")) == 200
    with (record.path / "x.jsonl").open("a") as file:
        file.write('{"cut')
    assert len(record.read_lines("x.jsonl")) == 200


def test_junit_is_xml_whatever_the_messages_hold(record: Record) -> None:
    cases = [
        {"name": "a <b>", "outcome": "failed", "message": "\x00 & \x1b[31m"},
        {"name": "b", "outcome": "skipped", "message": "later"},
        {"name": "c", "outcome": "passed"},
    ]
    record.write_junit("junit.xml", {"guard": cases})
    suite = ET.parse(record.path / "junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")


def test_people_and_times() -> None:
    assert operator().count("@") == 1
    assert len(stamp()) == len("2026-05-10T03:00:00Z")


class TestSeal:
    @pytest.fixture
    def sealed(self, record: Record) -> Record:
        record.write("a.txt", "a")
        record.write("tables/b.json", "[]")
        (record.path / "link").symlink_to("a.txt")
        seal(record, {"exit_code": 0})
        return record

    def test_nothing_changed(self, sealed: Record) -> None:
        assert verify(sealed) == []
        assert sealed.sealed
        manifest = json.loads((sealed.path / "SEAL.json").read_text())
        assert manifest["exit_code"] == 0
        assert sorted(manifest["files"]) == ["a.txt", "link", "tables/b.json"]

    def test_names_every_changed_added_and_missing_file(self, sealed: Record) -> None:
        (sealed.path / "a.txt").write_text("b")
        (sealed.path / "tables/b.json").unlink()
        (sealed.path / "tables/new").write_text("")
        (sealed.path / "link").unlink()
        (sealed.path / "link").symlink_to("b.txt")
        assert verify(sealed) == [
            Difference("a.txt", "changed"),
            Difference("link", "changed"),
            Difference("tables/b.json", "missing"),
            Difference("tables/new", "added"),
        ]

    @pytest.mark.parametrize("text", ["", "{}", '{"files": [], "digest": 1}'])
    def test_a_broken_seal_is_a_change(self, sealed: Record, text: str) -> None:
        (sealed.path / "SEAL.json").write_text(text)
        assert Difference("SEAL.json", "changed") in verify(sealed)
        assert sealing.summarize(sealed).sealed == "seal broken"

    def test_an_edited_seal_is_a_change(self, sealed: Record) -> None:
        path = sealed.path / "SEAL.json"
        path.write_text(path.read_text().replace('"exit_code": 0', '"exit_code": 1'))
        assert verify(sealed) == [Difference("SEAL.json", "changed")]

    def test_is_set_once(self, sealed: Record) -> None:
        with pytest.raises(RecordError, match="is sealed"):
            seal(sealed)

    def test_not_sealed_is_said(self, record: Record) -> None:
        with pytest.raises(RecordError, match="records seal"):
            verify(record)
        assert sealing.list_records(record.path.parent)[0].sealed == "not sealed"

    def test_another_attempt_puts_the_seal_aside_and_the_next_covers_it(self, sealed: Record) -> None:
        digest = sealing.reopen(sealed)
        assert not sealed.sealed
        assert json.loads((sealed.path / "SEAL.1.json").read_text())["digest"] == digest
        sealed.write("c.txt", "c")
        seal(sealed)
        assert verify(sealed) == []
        assert sealing.reopen(sealed)
        assert (sealed.path / "SEAL.2.json").exists()

    def test_an_altered_record_is_not_continued(self, sealed: Record) -> None:
        (sealed.path / "a.txt").write_text("b")
        with pytest.raises(RecordError, match=r"a\.txt \(changed\)"):
            sealing.reopen(sealed)
        assert sealing.reopen(Record.create("x", sealed.path.parent)) == ""

    def test_a_seal_that_was_interrupted_leaves_nothing(self, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
        def cut(*_: object) -> None:
            raise OSError("no space left")

        monkeypatch.setattr(os, "link", cut)
        with pytest.raises(OSError, match="no space"):
            seal(record)
        assert list(record.path.iterdir()) == []


class TestPage:
    def test_is_made_from_the_notebook_that_was_taken_in(self, record: Record, tmp_path: Path) -> None:
        redaction.register("c4nary-value", "canary")
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Hello c4nary-value")])
        nbformat.write(notebook, tmp_path / "elsewhere.ipynb")
        assert sealing.write_html(record) is None
        sealing.take_notebook(record, tmp_path / "elsewhere.ipynb")
        page = sealing.write_html(record)
        assert page is not None
        assert "Hello [secret: canary]" in page.read_text()
        with pytest.raises(RecordError, match="no notebook"):
            sealing.take_notebook(record, tmp_path / "none.ipynb")

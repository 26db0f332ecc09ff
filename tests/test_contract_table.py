"""The table of the contract: what counts as a case, what agrees, and that the page shows every recording."""

from __future__ import annotations

import re
from pathlib import Path

import contract_table
import pytest

REPORT = """<testsuites><testsuite>
<testcase name="a"><properties><property name="contract" value="registry/x.jsonl:1"/></properties></testcase>
<testcase name="b"><properties><property name="contract" value="registry/x.jsonl:2"/></properties></testcase>
<testcase name="c"><properties><property name="contract" value="registry/x.jsonl:2"/></properties>
  <failure message="assert 1 == 2">…</failure></testcase>
<testcase name="d"><properties><property name="contract" value="registry/x.jsonl:3"/></properties>
  <skipped type="pytest.skip" message="no program"/></testcase>
<testcase name="e"/>
</testsuite></testsuites>"""


@pytest.fixture
def results(tmp_path: Path) -> contract_table.Results:
    (tmp_path / "report.xml").write_text(REPORT)
    return contract_table.read(tmp_path / "report.xml")


def test_a_case_agrees_when_every_test_of_it_passed(
    results: contract_table.Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract_table, "recordings", lambda: {"registry/x.jsonl": ["1", "2", "3", "4"]})
    assert contract_table.differing(results) == [("registry/x.jsonl", line) for line in ("2", "3", "4")]
    text = contract_table.table(results, None, "")
    assert "| `registry/x.jsonl` | 4 | 1 (25 %) | not run |" in text
    assert "- `registry/x.jsonl` 2, stand-in: assert 1 == 2" in text
    assert "- `registry/x.jsonl` 3, stand-in: no program" in text
    assert "- `registry/x.jsonl` 4, stand-in: no test ran" in text
    assert not contract_table.explained(results, {("registry/x.jsonl", 2): "known"}, ("registry",))
    known = {("registry/x.jsonl", line): "known" for line in (2, 3, 4)}
    assert contract_table.explained(results, known, ("registry",))


def test_the_page_shows_every_recording_with_all_its_cases() -> None:
    rows = re.findall(r"^\| `(\S+)` \| (\d+) \|", contract_table.PAGE.read_text(), flags=re.M)
    assert {file: int(count) for file, count in rows} == {
        file: len(cases) for file, cases in contract_table.recordings().items()
    }

"""gitlab.rb against the recordings of the real packaging code, all versions."""

from __future__ import annotations

import json
from typing import Any

import contract_cases
import pytest

from georeg_lab.omnibus.gitlab_rb import evaluate
from georeg_lab.omnibus.profiles import profile
from georeg_lab.omnibus.render import render
from georeg_lab.omnibus.ruby_values import RubyError

FILE = "omnibus/gitlab-rb.jsonl"
PARAMETERS = [
    pytest.param(
        case, version, result["result"], id=f"{case['name']}-{version}", marks=contract_cases.marks(FILE, line)
    )
    for line, case in enumerate(contract_cases.recorded(FILE), start=1)
    for result in case["results"]
    for version in result["versions"]
]


def outcome(text: str, version: str) -> dict[str, Any]:
    try:
        return render(evaluate(text.encode(), "gitlab.rb"), profile(version)).shown()
    except RubyError as error:
        return {"error": str(error)}


@pytest.mark.parametrize(("case", "version", "recorded"), PARAMETERS)
def test_equal_to_the_recording(case: dict[str, Any], version: str, recorded: Any) -> None:
    given = outcome(case["gitlab_rb"], version)
    assert given == recorded
    assert json.dumps(given, sort_keys=True) == json.dumps(recorded, sort_keys=True)  # true is not 1

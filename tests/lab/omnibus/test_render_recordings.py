"""gitlab.rb against the recordings of the real packaging code: equal, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from georeg_lab.omnibus.gitlab_rb import evaluate
from georeg_lab.omnibus.profiles import profile
from georeg_lab.omnibus.render import render
from georeg_lab.omnibus.ruby_values import Refused, RubyError

DATA = Path(__file__).parents[2] / "data" / "omnibus" / "gitlab-rb.jsonl"
CASES = [json.loads(line) for line in DATA.read_text().splitlines()]
REFUSED = {"conditional assignment": "method call `Time.now.year`", "value from ENV": "constant `ENV`"}
PARAMETERS = [
    pytest.param(case, version, result["result"], id=f"{case['name']}-{version}")
    for case in CASES
    for result in case["results"]
    for version in result["versions"]
]


def outcome(text: str, version: str) -> dict[str, Any]:
    try:
        return render(evaluate(text.encode(), "gitlab.rb"), profile(version)).shown()
    except RubyError as error:
        return {"error": str(error)}


@pytest.mark.parametrize(("case", "version", "recorded"), PARAMETERS)
def test_equal_to_the_recording_or_refused_by_name(case: dict[str, Any], version: str, recorded: Any) -> None:
    if case["name"] in REFUSED:
        with pytest.raises(Refused, match=r"gitlab\.rb:3: ") as refused:
            outcome(case["gitlab_rb"], version)
        assert refused.value.construct == REFUSED[case["name"]]
    else:
        given = outcome(case["gitlab_rb"], version)
        assert given == recorded
        assert json.dumps(given, sort_keys=True) == json.dumps(recorded, sort_keys=True)  # true is not 1


def test_every_case_and_version_is_compared() -> None:
    assert len(CASES) == 73
    assert len(PARAMETERS) == 73 * 5

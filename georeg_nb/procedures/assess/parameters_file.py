"""A ready parameters file for the scenario that fits: every parameter with its meaning and a safe value.

Secrets are no parameters of a scenario: the sites file that it names holds references to them.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any

from pydantic_core import PydanticUndefined

from georeg_nb.parameters import SCENARIOS

WIDTH = 120


def text_of(scenario: str, sites: str, why: str) -> str:
    """The file's text; empty where this version has no such scenario. Its values are the model's defaults, so nothing
    is approved.
    """
    model = SCENARIOS.get(scenario)
    if model is None:
        return ""
    lines = [f"# Parameters of {scenario}, made by an assessment of the sites:", *_comment(why), ""]
    for name, field in model.model_fields.items():
        lines += _comment(field.description or "")
        if name == "sites":
            lines.append(f"sites: {json.dumps(sites)}")
        elif field.is_required():
            lines.append(f"# {name}:   # has to be given")
        else:
            lines.append(f"{name}: {_yaml(field.get_default(call_default_factory=True))}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _comment(text: str) -> list[str]:
    words = " ".join(text.split())
    return [f"# {line}" for line in textwrap.wrap(words, WIDTH - 2)] if words else []


def _yaml(value: Any) -> str:
    """JSON is YAML."""
    assert value is not PydanticUndefined
    return json.dumps(value, ensure_ascii=False)

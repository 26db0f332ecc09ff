"""geo.log: one JSON object a line, as Rails writes it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from georeg_lab.layout import inside
from georeg_lab.rails.config import GEO_LOG, Config


def log(config: Config, severity: str, class_name: str, message: str, **facts: Any) -> None:
    """Append a line: severity (`INFO`, `ERROR`), the Ruby class that speaks, its message, further facts."""
    now = datetime.now(UTC)
    line: dict[str, Any] = {
        "severity": severity,
        "time": f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z",
        "class": class_name,
        "gitlab_host": config.external_url.split("://", 1)[-1],
        "message": message,
        **facts,
    }
    path = inside(config.root, GEO_LOG)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")

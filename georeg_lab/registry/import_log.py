"""Log lines as the registry writes them: JSON or text, keys in alphabetical order, filtered by level.

Source: registry 1.6 (shape, keys), recorded lines (quoting of the text form)."""

from __future__ import annotations

import json
import re
import threading
import uuid
from datetime import UTC, datetime
from typing import Any, TextIO

from georeg_lab.registry import GO_VERSION, VERSION

_LEVELS = {"trace": 0, "debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "fatal": 50, "panic": 60}
_BARE = re.compile(r"[a-zA-Z0-9\-._/@^+]*")
_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_LOCK = threading.Lock()

BUILD = {"go_version": GO_VERSION, "version": VERSION}
"""On every line except the database driver's."""


def instance_id() -> str:
    """A new id for one run of the program: `instance_id` on its log lines."""
    return str(uuid.uuid4())


def now_text() -> str:
    """The present time, ISO 8601 with milliseconds, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, default=str)
    return re.sub("[<>&\u2028\u2029]", lambda match: _GO_ESCAPES[match[0]], text)


def _text_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class Logger:
    """Writes lines to a stream; `bind` makes a logger with more fields. Safe to use from several threads."""

    def __init__(
        self, stream: TextIO, level: str = "info", formatter: str = "json", fields: dict[str, Any] | None = None
    ) -> None:
        self.stream = stream
        self.level = level
        self.formatter = formatter
        self.fields = dict(BUILD) if fields is None else fields
        self._threshold = _LEVELS.get(level.lower(), 20)

    def bind(self, **fields: Any) -> Logger:
        """A logger that adds these fields to each line."""
        return Logger(self.stream, self.level, self.formatter, {**self.fields, **fields})

    def bare(self) -> Logger:
        """A logger to the same place without any fields: the database driver's."""
        return Logger(self.stream, self.level, self.formatter, {})

    def enabled(self, level: str) -> bool:
        """Whether a line of this level would be written."""
        return _LEVELS[level] >= self._threshold

    def log(self, level: str, msg: str, **fields: Any) -> None:
        """Write one line if the level is enabled."""
        if not self.enabled(level):
            return
        entry = {**self.fields, **fields}
        if self.formatter == "text":
            head = f'time="{now_text()}" level={level} msg={_text_value(msg)}'
            line = " ".join([head, *(f"{key}={_text_value(entry[key])}" for key in sorted(entry))])
        else:
            line = _json({**entry, "level": level, "msg": msg, "time": now_text()})
        with _LOCK:
            self.stream.write(line + "\n")
            self.stream.flush()

    def debug(self, msg: str, **fields: Any) -> None:
        """Write a line of level `debug`."""
        self.log("debug", msg, **fields)

    def info(self, msg: str, **fields: Any) -> None:
        """Write a line of level `info`."""
        self.log("info", msg, **fields)

    def warning(self, msg: str, **fields: Any) -> None:
        """Write a line of level `warning`."""
        self.log("warning", msg, **fields)

    def error(self, msg: str, **fields: Any) -> None:
        """Write a line of level `error`."""
        self.log("error", msg, **fields)

"""Go durations (`72h`, `1m30s`, `500ms`): what config.yml, flags and messages of the registry are written in."""

from __future__ import annotations

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse(text: str) -> float:
    """Seconds in a Go duration. Raises ValueError with the text of Go's `time.ParseDuration`."""
    rest, sign = text, 1.0
    if rest[:1] in ("+", "-"):
        sign = -1.0 if rest[0] == "-" else 1.0
        rest = rest[1:]
    if rest == "0":
        return 0.0
    seconds, position = 0.0, 0
    while position < len(rest):
        part = _PART.match(rest, position)
        if part is None:
            missing = re.fullmatch(r"\d+\.?\d*|\.\d+", rest[position:])
            problem = "missing unit in duration" if missing else "invalid duration"
            raise ValueError(f'time: {problem} "{text}"')
        seconds += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * seconds


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def text(seconds: float, precision: float = 1e-9) -> str:
    """A duration as Go prints it, e.g. `4.14s`, `12ms`, `1m0.5s`, `72h0m0s`; rounded to `precision` seconds."""
    nanoseconds = round(seconds / precision) * round(precision / 1e-9)
    if nanoseconds == 0:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    nanoseconds = abs(nanoseconds)
    if nanoseconds < 1_000:
        return f"{sign}{nanoseconds}ns"
    if nanoseconds < 1_000_000:
        return f"{sign}{_number(nanoseconds / 1e3, 3)}µs"
    if nanoseconds < 1_000_000_000:
        return f"{sign}{_number(nanoseconds / 1e6, 6)}ms"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    tail = f"{_number(rest / 1e9, 9)}s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{sign}{hours}h{minutes}m{tail}"
    return f"{sign}{minutes}m{tail}" if minutes else f"{sign}{tail}"

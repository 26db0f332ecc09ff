"""Recorded lines that the stand-in does not meet, with the reason: (file, line) -> why."""

from __future__ import annotations

DIFFERENCES: dict[tuple[str, int], str] = {}

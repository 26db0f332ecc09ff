"""Recorded cases that are known not to agree: (file, line) -> why. `make contract` shows them."""

from __future__ import annotations

DROP_IN: dict[tuple[str, int], str] = {
    ("registry/cli.jsonl", 66): "its migrations take fewer locks: a lock table that small is enough for them",
    ("registry/cli.jsonl", 176): "level debug: its SQL statements are its own, on one connection instead of one each",
    ("rails/rake.jsonl", 16): "the older copy's texts were not read, so there is nothing to compare with",
}
BINARY: dict[tuple[str, int], str] = {}

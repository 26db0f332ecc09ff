"""The words for how something is, each with its mark and its tone."""

from __future__ import annotations

from typing import Literal

Tone = Literal["good", "bad", "care", "quiet", "wait"]

MARKS: dict[str, tuple[str, Tone]] = {
    # verdicts of checks
    "passed": ("✔", "good"),
    "failed": ("✘", "bad"),
    "warning": ("▲", "care"),
    "not applicable": ("–", "quiet"),
    "later": ("…", "wait"),
    # outcomes of steps
    "done": ("✔", "good"),
    "no-op": ("=", "good"),
    "timed out": ("✘", "bad"),
    "interrupted": ("✘", "bad"),
    "not approved": ("○", "care"),
    "skipped by rule": ("–", "quiet"),
    "not reached": ("…", "quiet"),
    # plans
    "approved": ("●", "good"),
    "waits for approval": ("○", "care"),
    "waits for attestation": ("○", "care"),
    "nothing to do": ("=", "quiet"),
    # verification
    "equal": ("✔", "good"),
    "differs": ("✘", "bad"),
    "in flight": ("…", "wait"),
    # records
    "sealed": ("✔", "good"),
    "not sealed": ("○", "care"),
    "unchanged": ("✔", "good"),
    "changed": ("✘", "bad"),
    "added": ("✘", "bad"),
    "missing": ("✘", "bad"),
}

COLOURS: dict[Tone, str] = {
    "good": "#1a7f37",
    "bad": "#b42318",
    "care": "#9a6700",
    "quiet": "#57606a",
    "wait": "#0a5fb4",
}

TERMINAL: dict[Tone, str] = {
    "good": "bold green",
    "bad": "bold red",
    "care": "bold yellow",
    "quiet": "dim",
    "wait": "bold blue",
}


def mark(word: str) -> str:
    """The word with its mark: '✔ passed'. A word that is none of ours stays as it is."""
    return f"{MARKS[word][0]} {word}" if word in MARKS else word


def tone(word: str) -> Tone:
    return MARKS[word][1] if word in MARKS else "quiet"

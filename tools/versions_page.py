"""Write docs/versions.md from the table of differences between releases (`make versions`)."""

from __future__ import annotations

from pathlib import Path

from georeg_nb.versions import BUNDLED_REGISTRY, DIFFERENCES, NEWEST, REHEARSED, text

PAGE = Path(__file__).resolve().parent.parent / "docs" / "versions.md"


def page() -> str:
    """The whole page."""
    lines = [
        "# What differs between releases",
        "",
        "Written from the table in `georeg_nb/versions.py` by `make versions`; a test keeps it current. georeg asks",
        "the site itself wherever it can be asked; the version decides only where nothing else tells.",
        "",
        f"Rehearsed in the lab (`georeg lab up --gitlab-version`): {', '.join(map(text, REHEARSED))}.",
        f"Refused: below 17.5, and 19.0.0 and 19.0.1. Newer than {text(NEWEST)}: a warning, with what it shows.",
        "",
        "| Difference | Holds in | What | Seen on the site by | Used by | Source | Evidence |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in DIFFERENCES:
        users = "<br>".join(f"`{user}`" for user in row.used_by)
        cells = (f"`{row.name}`", row.range, row.what, row.detected, users, row.source, row.evidence)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "## The registry in each package", "", "| GitLab from | Registry |", "|---|---|"]
    lines += [f"| {text(first)} | {'.'.join(map(str, registry))} |" for first, registry in BUNDLED_REGISTRY.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())

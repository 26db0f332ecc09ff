"""Finished records: the page that is made of them, and the manifest of hashes by which a change shows."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from georeg_nb.errors import RecordError
from georeg_nb.records import RUN_ID, Record, base_folder, operator, stamp

SEAL = "SEAL.json"


@dataclass(frozen=True)
class Difference:
    """One file that is not as it was sealed."""

    file: str
    kind: Literal["changed", "added", "missing"]


@dataclass(frozen=True)
class RecordSummary:
    """One line of `georeg records list`."""

    run: str
    scenario: str
    sealed: str  # when, or "not sealed"
    files: int


def _files(folder: Path) -> dict[str, Path]:
    """Every file of a record but the seal. A link is named as what it is: its target is not part of the record."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or not path.is_dir()) and path != folder / SEAL and not _unfinished(path, folder)
    }


def _unfinished(path: Path, folder: Path) -> bool:
    return path.parent == folder and path.name.startswith(f".{SEAL}.")


def _hash(path: Path) -> str:
    if path.is_symlink():
        return "link:" + hashlib.sha256(os.fsencode(path.readlink())).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def seal(record: Record, facts: Mapping[str, Any] | None = None) -> str:
    """Write SEAL.json in one step and return its digest. `facts` (exit code, verdict) are sealed with the hashes.

    A sealed record is not sealed again (RecordError): it would hide what changed since.
    """
    target = record.path / SEAL
    if target.exists():
        raise RecordError(f"{record.run} is sealed", remedy=f"`georeg records verify {record.run}` compares it")
    manifest: dict[str, Any] = {
        "run": record.run,
        "sealed_at": stamp(),
        "sealed_by": operator(),
        **(facts or {}),
        "files": {
            name: {"sha256": _hash(path), "bytes": path.lstat().st_size} for name, path in _files(record.path).items()
        },
    }
    manifest["digest"] = _digest(manifest)
    part = record.path / f".{SEAL}.{os.getpid()}"
    with part.open("w") as file:
        file.write(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(part, target)  # unlike a rename it never replaces a seal that was set in between
    except FileExistsError:
        raise RecordError(f"{record.run} was sealed by someone else just now") from None
    finally:
        part.unlink()
    return str(manifest["digest"])


def verify(record: Record) -> list[Difference]:
    """Every file that is not as it was sealed; none: the record is as it was. Raises RecordError when not sealed."""
    try:
        manifest = json.loads((record.path / SEAL).read_text())
        sealed = {str(name): str(facts["sha256"]) for name, facts in manifest["files"].items()}
        own_digest = manifest["digest"]
    except FileNotFoundError:
        raise RecordError(
            f"{record.run} is not sealed", remedy=f"`georeg records seal {record.run}` seals it as it is now"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        return [Difference(SEAL, "changed")]
    differences = [] if own_digest == _digest(manifest) else [Difference(SEAL, "changed")]
    present = _files(record.path)
    for name in sorted(sealed.keys() | present.keys()):
        if name not in present:
            differences.append(Difference(name, "missing"))
        elif name not in sealed:
            differences.append(Difference(name, "added"))
        elif _hash(present[name]) != sealed[name]:
            differences.append(Difference(name, "changed"))
    return differences


def reopen(record: Record) -> str:
    """Open a sealed record for another attempt: its seal is put aside as SEAL.<n>.json. Returns the old seal's digest.

    Raises RecordError when the record is not as it was sealed: what was changed must not be covered by the next seal.
    """
    if not record.sealed:
        return ""
    if differences := verify(record):
        names = ", ".join(f"{difference.file} ({difference.kind})" for difference in differences)
        raise RecordError(
            f"{record.run} is not as it was sealed: {names}", remedy="keep it as it is, and start a new run"
        )
    digest = str(record.read_json(SEAL)["digest"])
    number = 1 + len(list(record.path.glob("SEAL.*.json")))
    (record.path / SEAL).rename(record.path / f"SEAL.{number}.json")
    return digest


def list_records(base: Path | None = None) -> list[RecordSummary]:
    """All records, oldest first."""
    folder = base or base_folder()
    if not folder.is_dir():
        return []
    return [summarize(Record(path)) for path in sorted(folder.iterdir()) if RUN_ID.fullmatch(path.name)]


def summarize(record: Record) -> RecordSummary:
    sealed = "not sealed"
    if record.sealed:
        try:
            sealed = str(record.read_json(SEAL)["sealed_at"])
        except (ValueError, KeyError, TypeError):
            sealed = "seal broken"
    return RecordSummary(record.run, record.scenario, sealed, len(_files(record.path)))


def take_notebook(record: Record, notebook: Path) -> None:
    """Copy a notebook that was executed elsewhere (by hand, by plain papermill) into the record."""
    if not notebook.is_file():
        raise RecordError(f"there is no notebook {notebook}")
    if notebook.resolve() != record.notebook.resolve():
        shutil.copyfile(notebook, record.notebook)


def write_html(record: Record) -> Path | None:
    """Make the page of the record's notebook, without scripts from elsewhere. None when there is no notebook."""
    if not record.notebook.exists():
        return None
    import nbformat
    from nbconvert import HTMLExporter  # two seconds that only this needs

    notebook = nbformat.read(record.notebook, as_version=4)
    # No addresses: a page that an auditor opens in ten years, or without a network, looks the same.
    urls = ("require_js_url", "mathjax_url", "mermaid_js_url", "mermaid_layout_elk_js_url", "jquery_url")
    exporter = HTMLExporter(template_name="lab", embed_images=True, **dict.fromkeys(urls, ""))
    exporter.anchor_link_text = " "
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbconvert's remarks on alternative texts and cell ids are not the operator's
        page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": record.run}})
    return record.write(record.html.name, page)

"""`python -m georeg_nb.parameters schema`: write the JSON Schemas of the parameters, for editors to complete from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from georeg_nb.parameters import SCENARIOS, SitesFile, project_root


def schemas() -> dict[str, str]:
    """File name to content."""
    models: dict[str, type[BaseModel]] = {"sites": SitesFile, **SCENARIOS}
    return {
        f"{name}.json": json.dumps(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}, indent=2
        )
        + "\n"
        for name, model in models.items()
    }


def write(folder: Path) -> list[Path]:
    """Write all schemas into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in schemas().items():
        (folder / name).write_text(text)
        paths.append(folder / name)
    return paths


if __name__ == "__main__":
    if sys.argv[1:] != ["schema"]:
        sys.exit("usage: python -m georeg_nb.parameters schema")
    for path in write(project_root() / "parameters" / "schema"):
        sys.stdout.write(f"{path}\n")

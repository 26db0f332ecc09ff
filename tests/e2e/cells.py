"""Run the code cells of a notebook in this process, with values for its parameters: what a kernel does, without one.

    python cells.py NOTEBOOK JSON

For tests that end a run at dozens of points: a kernel, its client and the saved notebook are tested elsewhere.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(notebook: str, values: str) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in json.loads(Path(notebook).read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), namespace)
            if "parameters" in cell["metadata"].get("tags", []):
                namespace |= json.loads(values)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Record how a real registry behaves where the first recordings are silent: `record_registry.py BINARY`.

Plays the scenes of tests/lab/registry/further_scenes.py on the program and writes what it did, data only, to
tests/data/registry/further-*.jsonl. The tests hold the stand-in to these files.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests/data/registry"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, help="GitLab's `registry`")
    os.environ["GEOREG_REGISTRY_BINARY"] = str(parser.parse_args().binary.resolve())
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/lab/registry")]
    from further_scenes import IMPORTS, SESSIONS, Player
    from metadata_pool import Pool

    from georeg_lab.postgres import Cluster, free_port, new_password

    with tempfile.TemporaryDirectory(prefix="georeg-record-") as folder:
        cluster = Cluster(Path(folder) / "data", free_port(), new_password())
        cluster.init()
        cluster.start()
        try:
            player = Player(Path(folder), Pool(cluster))
            write("further-import.jsonl", (player.imported(name) for name in IMPORTS))
            write("further-http.jsonl", (line for name in SESSIONS for line in player.answers(name)))
        finally:
            cluster.remove()


def write(name: str, cases: Iterable[dict[str, Any]]) -> None:
    """One case a line."""
    lines = [json.dumps(case, ensure_ascii=False) for case in cases]
    (DATA / name).write_text("\n".join(lines) + "\n")
    print(f"{name}: {len(lines)} cases")


if __name__ == "__main__":
    main()

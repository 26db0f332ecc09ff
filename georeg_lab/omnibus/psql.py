"""`/opt/gitlab/embedded/bin/psql`: the lab's own client, with the arguments as they are."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from georeg_lab.layout import Lab, log_command, root_from_environment


def main(argv: list[str], root: Path) -> None:
    """Replace this process by psql. Raises PostgresError when there is none."""
    from georeg_lab.postgres import environment, find_bin_dir

    configured = None
    with contextlib.suppress(FileNotFoundError):
        configured = Lab.of_root(root).settings.get("pg_bin")
    bin_dir = find_bin_dir(str(configured) if configured else None)
    kept = {key: value for key, value in os.environ.items() if key.startswith("PG") or key in ("HOME", "TERM")}
    os.execve(bin_dir / "psql", ["psql", *argv], environment(bin_dir, kept))  # noqa: S606


if __name__ == "__main__":
    ROOT = root_from_environment()
    log_command(ROOT, ["psql", *sys.argv[1:]])
    main(sys.argv[1:], ROOT)

"""`/opt/gitlab/embedded/bin/chpst [-u user[:group]] [-U …] [-P] [-e folder] program …`: only ever one user here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from georeg_lab.layout import inside, root_from_environment

WITH_VALUE = frozenset(("-u", "-U", "-e", "-b", "-/", "-n", "-l", "-L", "-m", "-d", "-o", "-p", "-f", "-c", "-r", "-t"))


def main(argv: list[str], root: Path) -> int:
    """Replace this process by the program; users are ignored, `-e` sets the environment. 100 on wrong use, as chpst."""
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in WITH_VALUE and rest:
            value = rest.pop(0)
            if option == "-e":
                os.environ.update(read_env_dir(inside(root, value)))
    if not rest:
        print("usage: chpst [-vP012] [-u user[:group]] [-U user[:group]] [-e dir] prog", file=sys.stderr)
        return 100
    program = inside(root, rest[0]) if rest[0].startswith("/") else Path(rest[0])
    os.environ["GEOREG_NODE_ROOT"] = str(root)
    try:
        os.execvp(program if program.exists() else rest[0], rest)  # noqa: S606
    except OSError as error:
        print(f"chpst: fatal: unable to run: {rest[0]}: {error.strerror}", file=sys.stderr)
        return 111


def read_env_dir(folder: Path) -> dict[str, str]:
    """Variables of an environment folder: one file each, its first line the value."""
    if not folder.is_dir():
        return {}
    return {file.name: file.read_text().split("\n", 1)[0].rstrip() for file in folder.iterdir() if file.is_file()}


if __name__ == "__main__":
    ROOT = root_from_environment()
    sys.exit(main(sys.argv[1:], ROOT))

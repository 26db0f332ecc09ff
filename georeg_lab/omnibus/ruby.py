"""`/opt/gitlab/embedded/bin/ruby -c FILE`: the syntax check, and nothing else of Ruby."""

from __future__ import annotations

import sys
from pathlib import Path

from georeg_lab.layout import inside, log_command, root_from_environment
from georeg_lab.omnibus.ruby_syntax import RubySyntaxError, parse


def main(argv: list[str], root: Path) -> int:
    """Exit status: 0 with "Syntax OK", 1 with Ruby's message on stderr, 64 for anything but `-c [FILE]`."""
    if not argv or argv[0] != "-c" or len(argv) > 2:
        print("ruby: only `ruby -c FILE` is done here", file=sys.stderr)
        return 64
    name = argv[1] if len(argv) == 2 else "-"
    file = inside(root, name) if name.startswith("/") else Path(name)
    try:
        source = sys.stdin.buffer.read() if name == "-" else file.read_bytes()
    except OSError:
        print(f"ruby: No such file or directory -- {name} (LoadError)", file=sys.stderr)
        return 1
    try:
        parse(source)
    except RubySyntaxError as error:
        print(f"{name}:{error.line}: {error.message}", file=sys.stderr)
        return 1
    print("Syntax OK")
    return 0


if __name__ == "__main__":
    ROOT = root_from_environment()
    log_command(ROOT, ["ruby", *sys.argv[1:]])
    sys.exit(main(sys.argv[1:], ROOT))

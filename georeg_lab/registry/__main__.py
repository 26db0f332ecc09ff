"""`python -m georeg_lab.registry …`"""

import os
import signal
import sys

from georeg_lab.registry.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends it at once; `serve` installs its own handlers
    sys.exit(main(sys.argv[1:], argv0=os.environ.get("GEOREG_REGISTRY_ARGV0", "registry")))

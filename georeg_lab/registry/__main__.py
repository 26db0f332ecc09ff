"""`python -m georeg_lab.registry …`"""

import os
import sys

from georeg_lab.registry.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], argv0=os.environ.get("GEOREG_REGISTRY_ARGV0", "registry")))

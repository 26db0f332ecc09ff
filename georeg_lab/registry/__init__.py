"""Stand-in for GitLab's container registry program, v4.32.0-gitlab: same arguments, storage, database, HTTP.

Started as `python -m georeg_lab.registry <arguments of the real program>`; GEOREG_REGISTRY_VERSION names another
release to answer as (`release.py`)."""

import os

VERSION = os.environ.get("GEOREG_REGISTRY_VERSION") or "v4.32.0-gitlab"
PACKAGE = "github.com/docker/distribution"
GO_VERSION = "go1.26.8"

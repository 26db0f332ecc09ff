"""What a node says about itself: its version, its evaluated configuration, and the attribute files of a reconfigure."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from georeg_lab.layout import inside
from georeg_lab.omnibus import files
from georeg_lab.omnibus.profiles import Profile, profile
from georeg_lab.omnibus.render import POSTGRESQL_DIR, Rendered, render, strip_nil
from georeg_lab.omnibus.ruby_values import plain, to_text
from georeg_lab.omnibus.templates import REGISTRY_DIR
from georeg_lab.releases import installed

GITLAB_RB = "/etc/gitlab/gitlab.rb"
CLUSTER = "/etc/gitlab/gitlab-cluster.json"
NODES = "/opt/gitlab/embedded/nodes"
PUBLIC_ATTRIBUTES = "/var/opt/gitlab/public_attributes.json"
_TOP_LEVEL = """
package registry redis postgresql gitlab_kas gitlab_pages pgbouncer repmgr repmgrd consul spamcheck patroni gitaly
praefect mattermost letsencrypt crond logrotate
"""
_MONITORING = """
prometheus alertmanager node_exporter redis_exporter postgres_exporter pgbouncer_exporter gitlab_exporter
"""
NOT_ATTRIBUTES = ("roles", "edition", "node")


def package_profile(root: Path) -> Profile:
    """The profile of the version that is installed on the node."""
    return profile(installed(root))


def evaluate_node(root: Path, chosen: Profile, secrets: dict[str, Any]) -> Rendered:
    """The attributes of the node from its gitlab.rb, secrets and gitlab-cluster.json. Raises RubyError, Refused."""
    from georeg_lab.omnibus.gitlab_rb import Settings, evaluate

    file, cluster = inside(root, GITLAB_RB), inside(root, CLUSTER)
    settings = Settings()
    if file.exists():
        settings = evaluate(file.read_bytes(), GITLAB_RB, lambda path: inside(root, path).read_bytes())
    return render(settings, chosen, secrets, json.loads(cluster.read_text()) if cluster.exists() else None)


def attributes(rendered: Rendered) -> dict[str, Any]:
    """All settings in the package's hierarchy, as `show-config` prints them: with secrets."""
    top, monitoring = _TOP_LEVEL.split(), _MONITORING.split()
    result: dict[str, Any] = {"gitlab": {}, "roles": {}, "monitoring": {}}
    for name, value in rendered.top.items():
        if name in NOT_ATTRIBUTES:
            continue
        if name.endswith("_role"):
            result["roles"][name.removesuffix("_role")] = value
        elif name in top:
            result[name] = value
        elif name in monitoring:
            result["monitoring"][name] = value
        else:
            result["gitlab"][name] = value
    found: dict[str, Any] = plain(strip_nil(result))
    return found


def write_node_attributes(root: Path, rendered: Rendered) -> None:
    """/opt/gitlab/embedded/nodes/<fqdn>.json: all attributes, secrets included (0600)."""
    name = platform.node()
    document = {"name": name, "chef_environment": "_default", "normal": attributes(rendered), "default": {}}
    files.write(inside(root, f"{NODES}/{name}.json"), json.dumps(document, indent=2) + "\n", 0o600)


def write_public_attributes(root: Path, rendered: Rendered) -> None:
    """public_attributes.json: folders, users, ports; no secrets (0644)."""
    registry, postgresql = rendered.section("registry"), rendered.section("postgresql")
    folder = to_text(postgresql.get("dir") or POSTGRESQL_DIR)
    document = {
        "gitlab": {
            "gitlab_rails": {"dir": "/var/opt/gitlab/gitlab-rails", "log_directory": "/var/log/gitlab/gitlab-rails"},
            "user": {"username": "git", "group": "git"},
        },
        "postgresql": {
            "dir": folder,
            "port": postgresql.get("port") or 5432,
            "unix_socket_directory": folder,
            "username": "gitlab-psql",
            "group": "gitlab-psql",
        },
        "registry": {
            "dir": registry.get("dir") or REGISTRY_DIR,
            "username": registry.get("username") or "registry",
            "group": registry.get("group") or "registry",
        },
    }
    files.write(inside(root, PUBLIC_ATTRIBUTES), json.dumps(document) + "\n", 0o644)


def registry_dir(root: Path) -> str:
    """The registry's folder by public_attributes.json."""
    file = inside(root, PUBLIC_ATTRIBUTES)
    try:
        return str(json.loads(file.read_text())["registry"]["dir"])
    except (OSError, ValueError, KeyError):
        return REGISTRY_DIR

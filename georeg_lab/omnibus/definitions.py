"""Which services a node runs, and how they are started: from its attributes to run.json."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from georeg_lab.layout import Lab, inside
from georeg_lab.omnibus.render import Rendered, bundled_postgresql
from georeg_lab.omnibus.ruby_values import truthy

POSTGRESQL, GEO_POSTGRESQL = "/var/opt/gitlab/postgresql", "/var/opt/gitlab/geo-postgresql"
DEFAULT_PORTS = {"postgresql": 5432, "geo-postgresql": 5431, "puma": 8080, "registry": 5000}
# restarted when Rails' own files change; source: procedures 4.7
RAILS_DEPENDANTS = ("puma", "sidekiq", "geo-logcursor")


def definitions(root: Path, rendered: Rendered) -> dict[str, dict[str, Any]]:
    """run.json of every service that this node runs, by name. Databases without a data directory are left out."""
    found: dict[str, dict[str, Any]] = {}
    for name, folder, wanted in (
        ("postgresql", POSTGRESQL, bundled_postgresql(rendered)),
        ("geo-postgresql", GEO_POSTGRESQL, rendered.geo_role == "secondary" and _on(rendered, "geo_postgresql")),
    ):
        section = rendered.section(name.replace("-", "_"))
        data = inside(root, str(section.get("dir") or folder)) / "data"
        if wanted and (data / "PG_VERSION").exists():
            found[name] = _postgresql(root, data, int(section.get("port") or DEFAULT_PORTS[name]))
    port = int(rendered.section("puma").get("port") or DEFAULT_PORTS["puma"])
    modules = {"puma": "georeg_lab.rails.puma", "sidekiq": "georeg_lab.rails.sidekiq", "nginx": "georeg_lab.nginx"}
    if rendered.geo_role == "secondary":
        modules["geo-logcursor"] = "georeg_lab.rails.logcursor"
    for name, module in modules.items():
        if _on(rendered, name.replace("-", "_")):
            found[name] = {"argv": [sys.executable, "-m", module, "--root", str(root)], "cwd": str(root)}
    if "puma" in found:
        found["puma"]["ready"] = {"tcp": port}
    if "nginx" in found and port_of(rendered.section("gitlab_rails").get("gitlab_port")):
        found["nginx"]["ready"] = {"tcp": port_of(rendered.section("gitlab_rails").get("gitlab_port"))}
    if rendered.registry_enabled:
        found["registry"] = _registry(root, rendered)
    return found


def port_of(value: Any) -> int | None:
    """The port of an address such as 127.0.0.1:5000, or of a number."""
    last = str(value or "").rpartition(":")[2]
    return int(last) if last.isdigit() else None


def _on(rendered: Rendered, section: str) -> bool:
    enable = rendered.section(section).get("enable")
    return enable is None or truthy(enable)


def _registry(root: Path, rendered: Rendered) -> dict[str, Any]:
    section = rendered.section("registry")
    folder = inside(root, str(section.get("dir") or "/var/opt/gitlab/registry"))
    module = "georeg_lab.omnibus.registry_process"
    return {
        "argv": [sys.executable, "-m", module, "--root", str(root), "serve", "./config.yml"],
        "cwd": str(folder),
        "ready": {"tcp": port_of(section.get("registry_http_addr")) or DEFAULT_PORTS["registry"]},
    }


def _postgresql(root: Path, data: Path, port: int) -> dict[str, Any]:
    from georeg_lab.postgres import environment, find_bin_dir, server_command

    try:
        configured = Lab.of_root(root).settings.get("pg_bin")
    except FileNotFoundError:
        configured = None
    bin_dir = find_bin_dir(str(configured) if configured else None)
    return {
        "argv": server_command(data, port, bin_dir),
        "env": environment(bin_dir),
        "cwd": "/",
        "stop_signal": "INT",
        "ready": {"postgresql": str(data)},
    }

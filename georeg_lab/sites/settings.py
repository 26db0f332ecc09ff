"""What a lab is made as: from what was asked to what lab.json holds, and whether a lab that is there is the one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from georeg_lab import sshd, states
from georeg_lab.layout import GITLAB_VERSION, MOST_REGISTRY_NODES, MOST_SECONDARIES, Lab
from georeg_lab.omnibus.profiles import profile
from georeg_lab.releases import release

SIZE = ("secondaries", "registry_nodes")


class LabError(Exception):
    """The lab cannot do what was asked; the message says why and what to do."""


def settings_of(
    *,
    secondaries: int | None,
    registry_nodes: Mapping[str, int] | None,
    registry_binary: Path | None,
    pg_bin: Path | None,
    gitlab_version: str | None,
    tags: int | None,
    ssh: bool,
    state: str | None,
) -> dict[str, object]:
    """What lab.json holds of such a lab; what was not asked for is left out. Raises LabError for what cannot be."""
    settings = _size(secondaries or 1, registry_nodes or {})
    if registry_binary:
        settings["registry_binary"] = str(registry_binary.resolve())
    if pg_bin:
        settings["pg_bin"] = str(pg_bin.resolve())
    if gitlab_version:
        settings["gitlab_version"] = release(gitlab_version).gitlab
    if tags:
        settings["tags"] = tags
    if ssh:
        settings["ssh"] = "direct" if sshd.why_no_sudo() else "sudo"
    if state:
        if state not in states.STATES:
            raise LabError(f"{state!r} is no state of a lab: {', '.join(states.STATES)}.")
        settings["state"] = state
        version = gitlab_version or GITLAB_VERSION
        if states.STATES[state].primary == "bundled" and profile(release(version).gitlab).database_default is None:
            raise LabError(f"GitLab {version} has no default metadata database: {state} needs 18.3 or later.")
    return settings


def refuse_another(lab: Lab, base_port: int | None, wanted: Mapping[str, object], *, sized: bool) -> None:
    """Raises LabError where the lab that is there is not the one that was asked for. `sized`: so was its size."""
    found = ""
    if base_port is not None and base_port != lab.ports.base:
        found = f"uses base port {lab.ports.base}, not {base_port}"
    elif (version := wanted.get("gitlab_version")) and release(str(version)) != release(lab.gitlab_version):
        found = f"stands in for GitLab {lab.gitlab_version}, not {version}"
    elif sized and any(wanted.get(key) != lab.settings.get(key) for key in SIZE):
        found = "has other sites or registry nodes"
    elif wanted.get("ssh") and not lab.ssh:
        found = "has no SSH servers"
    elif "state" in wanted and wanted["state"] != states.of(lab).name:
        found = f"is in the state {states.of(lab).name}, not {wanted['state']}"
    if found:
        raise LabError(f"The lab in {lab.dir} {found}. Remove it first: `georeg lab down --dir {lab.dir} --purge`.")


def _size(secondaries: int, registry_nodes: Mapping[str, int]) -> dict[str, object]:
    """What lab.json holds of a grown lab. Raises LabError for what cannot be made."""
    size: dict[str, object] = {}
    if not 1 <= secondaries <= MOST_SECONDARIES:
        raise LabError(f"{secondaries} secondaries cannot be made: 1 to {MOST_SECONDARIES}.")
    if secondaries > 1:
        size["secondaries"] = secondaries
    known = Lab(Path(), settings=size).sites
    for site, count in registry_nodes.items():
        if site not in known or not 1 <= count <= MOST_REGISTRY_NODES:
            raise LabError(
                f"{count} registry nodes of {site!r} cannot be made: 1 to {MOST_REGISTRY_NODES}, of {', '.join(known)}."
            )
    if several := {site: count for site, count in registry_nodes.items() if count > 1}:
        size["registry_nodes"] = several
    return size

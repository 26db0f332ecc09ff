"""Where a registry keeps its images: to show, and to compare between nodes and sites. Source: procedures 4.3."""

from __future__ import annotations

from georeg_nb.omnibus import Omnibus


def place_of(package: Omnibus, site: str) -> tuple[str, str]:
    """(what to show, what to compare) of a node's storage. A file system is told by the numbers of its folders, which a
    network file system shows alike on both sides.
    """
    config = package.registry_config()
    if config is None or len(config.drivers) != 1:
        return "unknown", f"unknown {site}"
    driver = config.drivers[0]
    if root := config.root_directory:
        paths = [f"{root}/docker/registry/v2", f"{root}/docker/registry/v2/blobs"]
        numbers = package.node.run(["stat", "-L", "-c", "%i", *paths], check=False).stdout.split()
        return f"{driver}: {root}", f"{driver} {' '.join(numbers) or site}"
    settings = config.storage[driver] or {}
    names = ("regionendpoint", "region", "bucket", "container", "accountname", "rootdirectory")
    shown = " ".join(str(settings[name]) for name in names if settings.get(name))
    return f"{driver}: {shown}", f"{driver} {shown}"

"""The registries' storages: whole, and each site's own. Source: procedures 2.2, 4.3; registry 2.1."""

from __future__ import annotations

from georeg_nb.procedures import state
from georeg_nb.procedures.places import place_of
from georeg_nb.runbook import Finding, check, failed, passed
from georeg_nb.site import Site, Sites


@check("the storage is complete", source="procedures 4.3, registry 2.1", evidence="run")
def storage_has_one_driver(site: Site) -> Finding:
    """Exactly one driver; for a file system, with the folders that an import needs."""
    wrong = []
    for package, config in state.registry_configs(site):
        drivers = config.drivers if config else []
        if len(drivers) != 1:
            wrong.append(f"{len(drivers)} drivers on {package.node.name}")
        elif config is not None and (root := config.root_directory):
            missing = [
                name
                for name in ("repositories", "blobs")
                if not package.node.exists(f"{root}/docker/registry/v2/{name}")
            ]
            if missing:
                wrong.append(f"no {' and no '.join(missing)} below {root} on {package.node.name}")
    if wrong:
        return failed(
            "; ".join(wrong),
            "one driver, with repositories and blobs",
            remedy="is the storage mounted? With no blobs folder an import loses every tag and says nothing. An "
            "empty registry "
            "is set up new (procedure P3), not migrated",
        )
    drivers = sorted({name for _, config in state.registry_configs(site) if config for name in config.drivers})
    return passed(", ".join(drivers), "one driver, with repositories and blobs")


@check("every site has a storage of its own", source="procedures 2.2", evidence="derived", scope="pair")
def storages_are_distinct(sites: Sites) -> Finding:
    """Two registries on one storage would each garbage-collect the other's layers."""
    places: dict[str, str] = {}
    rows, clash = [], ""
    for site in sites.all:
        place = place_of(site.omnibus, site.name)
        rows.append({"site": site.name, "storage": place[0]})
        if place[1] in places:
            clash = f"{site.name} and {places[place[1]]} use the same storage: {place[0]}"
        places[place[1]] = site.name
    if clash:
        return failed(
            clash, "one storage for each site", remedy="give each site its own bucket or folder first", rows=rows
        )
    return passed("; ".join(f"{row['site']}: {row['storage']}" for row in rows), "one storage for each site", rows=rows)

"""What the two sites hold at the start: rows of the main and tracking databases, and images in both storages.

The catalog is written as a finished first synchronisation leaves it: pushing and syncing a thousand tags one by one
would take minutes. That replication really works is shown afterwards, with the images of `images.pushed()`.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable, Mapping

from georeg_lab import images, states
from georeg_lab.layout import Lab, inside
from georeg_lab.omnibus.profiles import profile
from georeg_lab.postgres import connect
from georeg_lab.rails import schema
from georeg_lab.registry_client import RegistryClient
from georeg_lab.sites.databases import MAIN, TRACKING, main_cluster
from georeg_lab.sites.node_files import STORAGE, Secrets

UPLOADS = 40
SYNCED, VERIFIED = 2, 2
FILESYSTEM_IN_USE = "docker/registry/lockfiles/filesystem-in-use"


def checksum(tags: dict[str, str]) -> str:
    """Geo's checksum of a repository: SHA-256 (hex) over name and digest of its tags by name. Source: rails 3."""
    return hashlib.sha256("".join(f"{name}{tags[name]}" for name in sorted(tags)).encode()).hexdigest()


def seeds(lab: Lab) -> list[images.Seed]:
    """The images that the primary's registry holds, except what is pushed later. Migrated ones lack the one that the
    importer cannot bring over."""
    state = states.of(lab)
    catalog = images.catalog(lab.tags) if state.images else []
    return catalog if state.primary == "legacy" else [seed for seed in catalog if not seed.loss]


def repository_checksums(lab: Lab) -> dict[str, str]:
    """Checksum of every repository of the catalog."""
    found: dict[str, dict[str, str]] = {}
    for seed in seeds(lab):
        found.setdefault(seed.repository, {}).update(dict.fromkeys(seed.tags, seed.image.digest))
    return {path: checksum(tags) for path, tags in found.items()}


def seed_main(lab: Lab) -> dict[str, int]:
    """Make tables and rows of the main database. Returns the id of each container repository of the catalog.

    A new instance beside it, where there is no Geo yet, has the tables, its administrator, and nothing else."""
    kept, ports, geo = Secrets(lab.secrets), lab.ports, states.of(lab).geo
    password = kept.value("main-database")
    for site in () if geo else lab.secondaries:
        with main_cluster(lab, site).connect(MAIN, "gitlab", password) as main, main.transaction():
            schema.create_main(main)
            schema.add_user(main, "root", kept.gitlab_token, admin=True)
    with main_cluster(lab, "primary").connect(MAIN, "gitlab", password) as main, main.transaction():
        schema.create_main(main)
        schema.add_license(main)
        schema.add_user(main, "root", kept.gitlab_token, admin=True)
        for site in lab.sites if geo else ():
            schema.add_site(main, site, f"https://127.0.0.1:{ports.gitlab(site)}", primary=site == "primary")
        for path in images.projects():
            schema.add_project(main, path)
        schema.add_uploads(main, UPLOADS)
        repositories = {}
        for path, digest in repository_checksums(lab).items():
            repositories[path] = schema.add_container_repository(main, path)
            if not geo:
                continue
            main.execute(
                "INSERT INTO container_repository_states (container_repository_id, verification_state, verified_at,"
                " verification_checksum) VALUES (%s, %s, now(), decode(%s, 'hex'))",
                [repositories[path], VERIFIED, digest],
            )
    return repositories


def seed_tracking(lab: Lab, repositories: dict[str, int]) -> None:
    """Make the tables of each tracking database, with the catalog synced and verified where images are replicated."""
    checksums, state = repository_checksums(lab), states.of(lab)
    for site in lab.secondaries if state.geo else ():
        _seed_tracking(lab, site, repositories if state.replication else {}, checksums)


def _seed_tracking(lab: Lab, site: str, repositories: dict[str, int], checksums: dict[str, str]) -> None:
    password, port = Secrets(lab.secrets).value("tracking-database"), lab.ports.geo_postgresql(site)
    with connect(port, TRACKING, "gitlab_geo", password) as tracking, tracking.transaction():
        schema.create_tracking(tracking)
        for path, number in repositories.items():
            tracking.execute(
                "INSERT INTO container_repository_registry (container_repository_id, state, last_synced_at,"
                " verification_state, verified_at, verification_checksum)"
                " VALUES (%s, %s, now(), %s, now(), decode(%s, 'hex'))",
                [number, str(SYNCED), VERIFIED, checksums[path]],
            )


def seed_storage(lab: Lab) -> None:
    """Write the catalog into the storage of every site."""
    state = states.of(lab)
    source = inside(lab.node_root("primary"), STORAGE)
    targets = [inside(lab.node_root(site), STORAGE) for site in lab.secondaries if state.secondary != "none"]
    for seed in seeds(lab):
        images.write_legacy(source, seed)
    if state.images and profile(lab.gitlab_version).database_default == "prefer":
        # the registry of 18.9 wrote it at its start, before the upgrade; without it "prefer" would open a database
        lock = source / FILESYSTEM_IN_USE
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.write_text('{"version":1}')
    for target in targets:
        subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)


def prove_replication(
    primary: RegistryClient,
    secondaries: Mapping[str, RegistryClient],
    progress: Callable[[str], None],
    timeout: float = 120,
) -> None:
    """Push images to the primary and wait until notification, event and sync have brought them to each secondary.

    Raises TimeoutError naming what did not arrive.
    """
    for seed in images.pushed():
        primary.push(seed.repository, seed.image, *seed.tags)
    pushed, end = images.tags_of(images.pushed()), time.monotonic() + timeout
    for name, secondary in secondaries.items():
        missing = pushed
        progress(f"{len(missing)} tags pushed to the primary, waiting for them on the {name}")
        while missing:
            missing = {key: digest for key, digest in missing.items() if secondary.digest(*key) != digest}
            if missing and time.monotonic() > end:
                names = ", ".join(f"{repository}:{tag}" for repository, tag in missing)
                raise TimeoutError(f"Not replicated to the {name} within {timeout:g} s: {names}")
            time.sleep(0.5 if missing else 0)


def wait_until_verified(lab: Lab, timeout: float = 60) -> None:
    """Wait until Geo, where there is any, has synced and verified everything everywhere. Raises TimeoutError naming
    what is not."""
    password = Secrets(lab.secrets).value("tracking-database")
    query = (
        "SELECT container_repository_id, state, verification_state, last_sync_failure, verification_failure"
        " FROM container_repository_registry"
        f" WHERE state NOT IN ('{SYNCED}', 'synced') OR verification_state <> {VERIFIED}"
        f" OR (SELECT count(*) FROM file_registry) < {UPLOADS} ORDER BY id"
    )
    end = time.monotonic() + timeout
    for site in lab.secondaries if states.of(lab).geo else ():
        with connect(lab.ports.geo_postgresql(site), TRACKING, "gitlab_geo", password) as tracking:
            while rows := tracking.execute(query.encode()).fetchall():
                if time.monotonic() > end:
                    raise TimeoutError(f"{site}: not verified by Geo within {timeout:g} s: {rows}")
                time.sleep(0.5)

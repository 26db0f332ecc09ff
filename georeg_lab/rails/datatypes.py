"""The replicated data types of the lab: container repositories, and two whose replication goes on beside them."""

from __future__ import annotations

from dataclasses import dataclass

from georeg_lab.rails.config import Databases
from georeg_lab.rails.geo_verification import SUCCEEDED


@dataclass(frozen=True)
class DataType:
    """A data type: its names in the API and in Rake tasks, its tables."""

    plural: str  # prefix of the status fields
    title: str  # in Rake tasks
    graphql: str  # type, and value of GeoRegistryClass in capitals
    model: str  # table in the main database
    states: str  # table of the primary's checksums
    states_key: str
    registry: str  # table in the tracking database
    registry_key: str


CONTAINER_REPOSITORIES = DataType(
    "container_repositories",
    "Container Repositories",
    "ContainerRepositoryRegistry",
    "container_repositories",
    "container_repository_states",
    "container_repository_id",
    "container_repository_registry",
    "container_repository_id",
)
PROJECT_REPOSITORIES = DataType(
    "project_repositories",
    "Project Repositories",
    "ProjectRepositoryRegistry",
    "projects",
    "project_states",
    "project_id",
    "project_repository_registry",
    "project_id",
)
UPLOADS = DataType(
    "uploads", "Uploads", "UploadRegistry", "uploads", "upload_states", "upload_id", "file_registry", "file_id"
)
OTHERS = (PROJECT_REPOSITORIES, UPLOADS)
ALL = (PROJECT_REPOSITORIES, UPLOADS, CONTAINER_REPOSITORIES)


def checksum_others(databases: Databases) -> int:
    """On the primary: checksums of the other types' new rows. Returns how many were added."""
    added = 0
    for kind in OTHERS:
        digest = f"sha256(convert_to('{kind.model}:' || id, 'UTF8'))"
        query = (
            f"INSERT INTO {kind.states} ({kind.states_key}, verification_state, verification_checksum, verified_at)"
            f" SELECT id, {SUCCEEDED}, {digest}, now() FROM {kind.model}"
            f" WHERE id NOT IN (SELECT {kind.states_key} FROM {kind.states})"
        )
        added += databases.run(query)
    return added


def sync_others(databases: Databases) -> int:
    """On the secondary: records of the other types, synced and verified as soon as the primary has a checksum."""
    changed = 0
    for kind in OTHERS:
        known = {
            row["id"] for row in databases.all(f"SELECT {kind.registry_key} AS id FROM {kind.registry}", database="geo")
        }
        query = f"SELECT {kind.states_key} AS id, verification_checksum FROM {kind.states}"
        there = {row["id"]: row["verification_checksum"] for row in databases.all(query)}
        insert = (
            f"INSERT INTO {kind.registry} ({kind.registry_key}, state, last_synced_at, verification_state,"
            f" verification_checksum, verified_at) VALUES (%s, 2, now(), {SUCCEEDED}, %s, now())"
        )
        for new in sorted(there.keys() - known):
            changed += databases.run(insert, [new, there[new]], database="geo")
        for gone in sorted(known - there.keys()):
            delete = f"DELETE FROM {kind.registry} WHERE {kind.registry_key} = %s"
            changed += databases.run(delete, [gone], database="geo")
    return changed

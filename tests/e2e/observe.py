"""What a lab holds, in a form that can be compared: database dumps, file hashes, the registry's tags, its processes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

from georeg_lab.postgres import environment, find_bin_dir
from georeg_lab.sites import LabSites
from georeg_lab.sites.databases import all_clusters

# Geo and its cursor go on while a plan is read: their heartbeat is no change of ours.
HEARTBEAT = ("geo_node_statuses", "geo_event_log_cursor", "event_cursor", "leases")
LIVING = ("var/log/", "commands.jsonl", ".lock", "/data/", "/run/", ".pristine/", "pid")


def database_dumps(sites: LabSites) -> dict[str, str]:
    """A hash of every database of every cluster, from its sorted plain dump without Geo's heartbeat."""
    found = {}
    binary = find_bin_dir(None) / "pg_dump"
    for cluster in all_clusters(sites.lab):
        with cluster.connect() as connection:
            names = [row[0] for row in connection.execute("SELECT datname FROM pg_database WHERE NOT datistemplate")]
        for name in names:
            where = {"PGHOST": "127.0.0.1", "PGPORT": str(cluster.port), "PGUSER": cluster.superuser}
            dump = subprocess.run(
                [str(binary), "--no-owner", *(f"--exclude-table-data=*{table}*" for table in HEARTBEAT), "-d", name],
                env=environment(binary.parent, {**where, "PGPASSWORD": cluster.password}),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            lines = sorted(
                line for line in dump.splitlines() if not line.startswith(("--", "\\restrict", "\\unrestrict"))
            )
            found[f"{cluster.port}/{name}"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return found


def file_hashes(sites: LabSites) -> dict[str, str]:
    """Relative path → SHA-256 of every file of the lab outside logs, PostgreSQL's data and process state."""
    base = sites.lab.dir
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(base.rglob("*"))
        if path.is_file() and not any(part in (name := str(path.relative_to(base))) for part in LIVING)
    }


def commands(sites: LabSites) -> list[list[str]]:
    """What the stand-ins were asked to do, oldest first."""
    log = sites.lab.dir / "commands.jsonl"
    return [json.loads(line)["argv"] for line in log.read_text().splitlines()] if log.exists() else []


def tags_on_disk(sites: LabSites, site: str) -> dict[tuple[str, str], str]:
    """(repository, tag) → digest from the tag links of a legacy storage."""
    base = sites.storage(site) / "docker/registry/v2/repositories"
    found = {}
    for link in base.glob("**/_manifests/tags/*/current/link"):
        tag, repository = link.parts[-3], Path(*link.parts[:-5]).relative_to(base)
        found[str(repository), tag] = link.read_text().strip()
    return found


def tags_in_database(sites: LabSites, site: str) -> dict[tuple[str, str], str]:
    """(repository, tag) → digest from the site's metadata database."""
    import psycopg

    query = """
        SELECT r.path, t.name, 'sha256:' || encode(substring(m.digest FROM 2), 'hex')
        FROM tags t
        JOIN manifests m ON m.id = t.manifest_id AND m.repository_id = t.repository_id
            AND m.top_level_namespace_id = t.top_level_namespace_id
        JOIN repositories r ON (r.top_level_namespace_id, r.id) = (t.top_level_namespace_id, t.repository_id)
    """
    with psycopg.connect(sites.metadata_dsn(site)) as connection:
        return {(path, tag): digest for path, tag, digest in connection.execute(query)}


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that belong to a folder, by argument, environment or working directory."""
    return list(pids_of(folder).values())


def pids_of(folder: Path) -> dict[int, str]:
    """The same by process number."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            cwd = str((entry / "cwd").readlink())
        except OSError:
            continue
        if str(folder).encode() in text or cwd.startswith(str(folder)):
            found[int(entry.name)] = text.partition(b"\0\0")[0].replace(b"\0", b" ").decode(errors="replace")
    return found

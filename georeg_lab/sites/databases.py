"""The lab's PostgreSQL clusters: main database and replica, tracking database, and the external registry databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from georeg_lab.layout import Lab, inside
from georeg_lab.pki import Authority
from georeg_lab.postgres import Cluster, find_bin_dir
from georeg_lab.sites.node_files import Secrets

MAIN = "gitlabhq_production"
TRACKING = "gitlabhq_geo_production"
POSTGRESQL = "/var/opt/gitlab/postgresql"
GEO_POSTGRESQL = "/var/opt/gitlab/geo-postgresql"


def _cluster(lab: Lab, folder: Path, port: int, password: str, superuser: str) -> Cluster:
    configured = lab.settings.get("pg_bin")
    bin_dir = find_bin_dir(str(configured) if configured else None)
    return Cluster(folder, port, Secrets(lab.secrets).value(password), superuser, bin_dir)


def main_cluster(lab: Lab, site: str) -> Cluster:
    """The site's own PostgreSQL: GitLab's main database, on the secondary a streaming replica."""
    folder = inside(lab.node_root(site), POSTGRESQL) / "data"
    return _cluster(lab, folder, lab.ports.postgresql(site), "main-superuser", "gitlab-psql")


def tracking_cluster(lab: Lab, site: str = "secondary") -> Cluster:
    """A secondary's geo-postgresql."""
    folder = inside(lab.node_root(site), GEO_POSTGRESQL) / "data"
    return _cluster(lab, folder, lab.ports.geo_postgresql(site), "tracking-superuser", "gitlab-psql")


def registry_cluster(lab: Lab, site: str) -> Cluster:
    """The site's external PostgreSQL for registry metadata (XP, XS)."""
    folder = lab.databases / site / "data"
    return _cluster(lab, folder, lab.ports.registry_database(site), f"{site}-external-superuser", "postgres")


def all_clusters(lab: Lab) -> list[Cluster]:
    """Every cluster of the lab, in an order in which they can be stopped: the primary before its replicas."""
    return [*supervised_clusters(lab), *external_clusters(lab)]


def supervised_clusters(lab: Lab) -> list[Cluster]:
    """The clusters that are services of a node: main databases, the primary's first, and tracking databases."""
    main = [main_cluster(lab, site) for site in lab.sites]
    return [*main, *(tracking_cluster(lab, site) for site in lab.secondaries)]


def external_clusters(lab: Lab) -> list[Cluster]:
    """The clusters that no node supervises."""
    return [registry_cluster(lab, site) for site in lab.sites]


def create(lab: Lab) -> None:
    """Make and start all clusters but the replicas, with roles and empty databases."""
    primary, tracking = main_cluster(lab, "primary"), [tracking_cluster(lab, site) for site in lab.secondaries]
    kept = Secrets(lab.secrets)
    with ThreadPoolExecutor() as pool:
        made = [pool.submit(cluster.init) for cluster in (primary, *tracking)]
        made += [pool.submit(_create_external, lab, site) for site in lab.sites]
        for future in made:
            future.result()
    primary.configure({"max_replication_slots": str(max(2, len(lab.secondaries)))})
    primary.start()
    primary.create_role("gitlab", kept.value("main-database"))
    primary.create_role("gitlab_replicator", kept.value("replication"), "LOGIN REPLICATION")
    primary.create_database(MAIN, "gitlab")
    for cluster in tracking:
        cluster.start()
        cluster.create_role("gitlab_geo", kept.value("tracking-database"))
        cluster.create_database(TRACKING, "gitlab_geo")
    _write_pgpass(lab)


def _create_external(lab: Lab, site: str) -> None:
    cluster = registry_cluster(lab, site)
    cluster.init()
    certificate, key = Authority(lab.pki).issue(f"{site}-registry-database")
    cluster.enable_tls(certificate, key)
    cluster.start()
    cluster.create_role("registry", Secrets(lab.secrets).registry_database(site))
    cluster.create_database("registry", "registry")


def replicate(lab: Lab) -> None:
    """Make and start each secondary's replica of the running main database, on a slot of its own. Source: procedures
    2.1, step 13."""
    password = Secrets(lab.secrets).value("replication")
    for site in lab.secondaries:
        replica = main_cluster(lab, site)
        main_cluster(lab, "primary").base_backup(replica, site.replace("-", "_"), "gitlab_replicator", password)
        replica.start()


def _write_pgpass(lab: Lab) -> None:
    """The password that `gitlab-psql` uses, where a real node has peer authentication over the socket."""
    for cluster in supervised_clusters(lab):
        cluster.data_dir.parent.mkdir(parents=True, exist_ok=True)
        path = cluster.data_dir.parent / ".pgpass"
        path.touch(mode=0o600)
        path.write_text(f"127.0.0.1:{cluster.port}:*:{cluster.superuser}:{cluster.password}\n")

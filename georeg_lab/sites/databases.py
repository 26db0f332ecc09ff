"""The lab's PostgreSQL clusters: main database and replica, tracking database, and the external registry databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from georeg_lab import states
from georeg_lab.layout import Lab, inside
from georeg_lab.omnibus import peer, postgresql_conf
from georeg_lab.pki import Authority
from georeg_lab.postgres import Cluster, find_bin_dir, hand_over
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
    cluster = _cluster(lab, folder, lab.ports.postgresql(site), "main-superuser", "gitlab-psql")
    return cluster if states.of(lab).geo else replace(cluster, address=peer.ADDRESS)


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
    """Make and start all clusters but the replicas, with roles and empty databases. Without Geo there are none:
    each site has a main database of its own, as the package sets it up (procedures 2.1, steps 3 to 6 change that)."""
    kept, geo = Secrets(lab.secrets), states.of(lab).geo
    main = [main_cluster(lab, site) for site in (["primary"] if geo else lab.sites)]
    tracking = [tracking_cluster(lab, site) for site in lab.secondaries] if geo else []
    with ThreadPoolExecutor() as pool:
        made = [pool.submit(cluster.init) for cluster in (*main, *tracking)]
        made += [pool.submit(_create_external, lab, site) for site in lab.sites]
        for future in made:
            future.result()
    if geo:
        main[0].configure({"max_replication_slots": str(max(2, len(lab.secondaries)))})
    for cluster in main:
        if not geo:
            postgresql_conf.manage(cluster.data_dir)
            hand_over(cluster.data_dir)
        cluster.start()
        cluster.create_role("gitlab", kept.value("main-database"))
        cluster.create_database(MAIN, "gitlab")
    if geo:
        main[0].create_role("gitlab_replicator", kept.value("replication"), "LOGIN REPLICATION")
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
    """Make and start, where there is Geo, each secondary's replica of the running main database, on a slot of its own.
    Source: procedures 2.1, step 13."""
    password = Secrets(lab.secrets).value("replication")
    for site in lab.secondaries if states.of(lab).geo else ():
        replica = main_cluster(lab, site)
        main_cluster(lab, "primary").base_backup(replica, site.replace("-", "_"), "gitlab_replicator", password)
        replica.start()


def _write_pgpass(lab: Lab) -> None:
    """The passwords of those who have peer authentication over the socket on a real node."""
    kept, geo = Secrets(lab.secrets), states.of(lab).geo
    for site in lab.sites:
        cluster = main_cluster(lab, site)
        users = {cluster.superuser: cluster.password, **({} if geo else {"gitlab": kept.value("main-database")})}
        peer.write(cluster.data_dir.parent, cluster.address, cluster.port, users)
    for site in lab.secondaries if geo else ():
        cluster = tracking_cluster(lab, site)
        peer.write(cluster.data_dir.parent, cluster.address, cluster.port, {cluster.superuser: cluster.password})

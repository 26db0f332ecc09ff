"""Two nodes on one real PostgreSQL server: a main and a tracking database, made anew for each test; fake registries."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from rails_fakes import MAIN, READ_TOKEN, ROOT_TOKEN, SECRET, TRACKING, USER_TOKEN, Pair, Server, render_node

from georeg_lab.postgres import Cluster, free_port, new_password
from georeg_lab.rails import puma, schema
from georeg_lab.rails.config import Config, Databases


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("rails") / "data", free_port(), new_password())
    made.init()
    made.start()
    made.create_database(MAIN, "postgres")
    made.create_database(TRACKING, "postgres")
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def key() -> bytes:
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = serialization.PrivateFormat.TraditionalOpenSSL
    return made.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def pair(cluster: Cluster, key: bytes, server: Server, tmp_path: Path) -> Iterator[Pair]:
    connection = {"host": "127.0.0.1", "port": cluster.port, "username": "postgres", "password": cluster.password}
    for name, create in ((MAIN, schema.create_main), (TRACKING, schema.create_tracking)):
        with cluster.connect(name) as admin:
            admin.execute("DROP SCHEMA public CASCADE")
            admin.execute("CREATE SCHEMA public")
            create(admin)
    registries = {site: server.registry() for site in ("primary", "secondary")}
    settings: dict[str, Any] = {}
    for site in ("primary", "secondary"):
        settings[site] = {
            "url": "http://127.0.0.1:1",
            "main": {**connection, "database": MAIN},
            "key": key,
            "registry_url": registries[site].url,
            "secret": SECRET if site == "primary" else "",
            "replication": site == "secondary",
        }
    settings["secondary"]["geo"] = {**connection, "database": TRACKING}
    settings["secondary"]["primary_registry_url"] = registries["primary"].url
    roots = {site: tmp_path / site for site in settings}
    pools, served, urls, nodes = [], [], {}, {}
    for site, values in settings.items():
        render_node(roots[site], **values)
        databases = Databases(Config.load(roots[site]))
        pools.append(ThreadPoolExecutor(2))
        served.append(databases)
        values["url"] = urls[site] = server.serve(puma.application(databases, pools[-1]))
        render_node(roots[site], **values)
        nodes[site] = Databases(Config.load(roots[site]))
        object.__setattr__(databases, "config", nodes[site].config)
    with cluster.connect(MAIN) as main:
        schema.add_license(main)
        schema.add_user(main, "root", ROOT_TOKEN, admin=True)
        schema.add_user(main, "root", READ_TOKEN, admin=True, scopes=["read_api", "read_registry"])
        user = schema.add_user(main, "user", USER_TOKEN)
        project = schema.add_project(main, "group/app")
        schema.add_member(main, user, project, 20)
        schema.add_container_repository(main, "group/app")
        for site in settings:
            schema.add_site(main, site, urls[site], primary=site == "primary")
    yield Pair(nodes["primary"], nodes["secondary"], registries, urls, settings, roots=roots)
    for pool in pools:
        pool.shutdown()
    for databases in [*nodes.values(), *served]:
        databases.close()

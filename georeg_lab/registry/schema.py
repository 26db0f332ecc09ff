"""What each migration does to the database: the SQL of `data/schema.sql`, by migration id.

Source: registry 4, with the recorded ids (`data/migrations_*.txt`) and media types (`data/media_types.txt`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from georeg_lab.registry import release

Kind = Literal["pre-deployment", "post-deployment"]
_ALL: tuple[Kind, ...] = ("pre-deployment", "post-deployment")
KINDS = _ALL if release.POST_DEPLOYMENT_APART else _ALL[:1]
BOOKS: dict[Kind, str] = {"pre-deployment": "schema_migrations", "post-deployment": "post_deploy_schema_migrations"}
PARTITIONS = 64
PARTITIONED_TABLES = (
    "blobs",
    "repository_blobs",
    "manifests",
    "manifest_references",
    "layers",
    "tags",
    "gc_blobs_layers",
    "gc_blobs_configurations",
)
_FILES: dict[Kind, str] = {"pre-deployment": "migrations_pre.txt", "post-deployment": "migrations_post.txt"}
_DATA = files("georeg_lab.registry").joinpath("data")


@dataclass(frozen=True)
class Change:
    """The SQL of one migration, empty where it only has to be kept in the books."""

    up: str = ""
    down: str = ""


@cache
def ids(kind: Kind) -> tuple[str, ...]:
    """All migration ids of one kind that the release has, in the order in which they are applied."""
    last = release.last_migrations()[kind == "post-deployment"]
    return tuple(name for name in _DATA.joinpath(_FILES[kind]).read_text().splitlines() if name[:14] <= last)


@cache
def media_types() -> tuple[str, ...]:
    """The media types that a new database knows, in id order."""
    return tuple(_DATA.joinpath("media_types.txt").read_text().splitlines())


@cache
def changes() -> dict[str, Change]:
    """SQL by migration id; an id without SQL is not in it."""
    text = _DATA.joinpath("schema.sql").read_text().replace("@media_types@", "\n".join(media_types()))
    found = {}
    for name, body in re.findall(r"^-- up (\S+)\n(.*?)(?=^-- (?:up|partitions) |\Z)", text, flags=re.M | re.S):
        up, _, down = body.partition("-- down\n")
        found[name] = Change(up.strip(), down.strip())
    for name, table in re.findall(r"^-- partitions (\S+) (\S+)$", text, flags=re.M):
        found[name] = Change(_partitions(table), _drop_partitions(table))
    return found


def _partitions(table: str) -> str:
    return "".join(
        f"CREATE TABLE partitions.{table}_p_{n} PARTITION OF public.{table} "
        f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {n});\n"
        for n in range(PARTITIONS)
    )


def _drop_partitions(table: str) -> str:
    return f"DROP TABLE {', '.join(f'partitions.{table}_p_{n}' for n in range(PARTITIONS))} CASCADE;"

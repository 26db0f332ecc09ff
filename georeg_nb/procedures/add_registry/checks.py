"""What must hold before a registry is enabled, put on a new database, and replicated. Source: procedures 2.2 to 2.4."""

from __future__ import annotations

import re
from dataclasses import replace

from georeg_nb.omnibus import BUNDLED_DATABASE, LOCKFILES, RegistryConfig
from georeg_nb.procedures import state
from georeg_nb.procedures.guard.registry import notifications_fit
from georeg_nb.procedures.import_metadata import checks as importing
from georeg_nb.runbook import Check, Finding, check, failed, later, not_applicable, passed
from georeg_nb.site import Site, Sites

DEFAULT_STORAGE = "/var/opt/gitlab/gitlab-rails/shared/registry"
USED = "database-used"  # kept on the site: since when its registry works on the database that this runbook gave it
TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9]{31,}")
HAS_IMAGES = {
    "legacy": "scenario migrate-legacy moves registries with legacy metadata: both sites' when both have images",
    "default": "the default database is moved out first (procedure P5, scenario add-geo-default-database)",
    "external": "the primary's database is not touched then: scenario add-geo-external-database",
}


def enabled_everywhere(site: Site) -> bool:
    """A registry is set up and running on every registry node, and Rails knows it (procedures 2.0, 2.2)."""
    for package in site.packages("registry"):
        service = package.service("registry") if package.registry_is_enabled() else None
        if service is None or not service.up:
            return False
    return all(package.gitlab_yml().registry_enabled for package in site.packages("rails"))


def once_enabled(question: Check) -> Check:
    """The same check where there may be no registry yet: it can be asked of one that runs only."""

    def asked(site: Site) -> Finding:
        return question(site) if enabled_everywhere(site) else later("after the registry is enabled")

    asked.__name__, asked.__doc__ = question.name, question.doc
    return replace(question, function=asked)


def is_default(config: RegistryConfig, site: Site) -> bool:
    """Whether it names the package's own PostgreSQL: its folder, or where it listens (procedures 2.0, 4.4)."""
    host, port, _ = config.database_address
    if host == BUNDLED_DATABASE:
        return True
    query = "SELECT current_setting('listen_addresses') || ' ' || current_setting('port')"
    told = site.rails_node.run(["gitlab-psql", "-d", "template1", "-tAc", query], check=False).stdout.strip()
    addresses, _, own_port = told.rpartition(" ")
    return host in re.split(r", *", addresses) and str(port) in (own_port, "5432")


def has_worked_on_a_database(site: Site) -> bool:
    """The storage says so, by its lock file, also where no registry runs yet."""
    if site.omnibus.registry_config() is None:
        return site.omnibus.node.exists(f"{DEFAULT_STORAGE}/{LOCKFILES}/database-in-use")
    return bool(state.lockfiles(site).database)


def works_elsewhere(site: Site) -> bool:
    """The registry has worked on a database that is not the one this runbook gives it: with `enabled` false it would
    not start again, because of the lock file (procedures 2.3 notes, 3.3).
    """
    if state.on_own_database(site):
        return False
    if has_worked_on_a_database(site):
        return True
    configs = [config for package, config in state.registry_configs(site) if package.registry_is_enabled()]
    if all(config is None or config.mode == "legacy" for config in configs):
        return False
    return any(state.running_on_database(site).values())


def stored_images(site: Site) -> list[str]:
    """Repositories with a manifest in the storage, whatever the registry says: in mode "prefer" it may show an empty
    catalog over a full storage (procedures 1.4). Empty too where the storage is no file system.
    """
    config = site.omnibus.registry_config()
    root = (config.root_directory if config else DEFAULT_STORAGE) or ""
    if not root:
        return []
    below = f"{root}/docker/registry/v2/repositories"
    found = site.omnibus.node.run(["find", below, "-type", "d", "-name", "_manifests", "-prune"], check=False)
    return sorted(
        line.partition("/docker/registry/v2/repositories/")[2].removesuffix("/_manifests")
        for line in found.stdout.splitlines()
    )


@check("the registry is enabled, or off altogether", source="procedures 2.0, 2.2", evidence="source")
def registry_is_enabled(site: Site) -> Finding:
    """By what is rendered and by the supervisor, not by gitlab.rb: with Let's Encrypt the package enables it itself."""
    if enabled_everywhere(site):
        return passed("running on every registry node", "running, or off")
    on = [package.node.name for package in site.packages("registry") if package.registry_is_enabled()]
    if not on:
        return passed("off", "running, or off")
    return later(f"set up on {', '.join(on)} and not running everywhere: step enable-registry starts it")


@check("there is no image in the registry", source="procedures 2.0, 2.3", evidence="run")
def no_images(site: Site) -> Finding:
    """In its catalog and in its storage: what is there already would be hidden by a new database."""
    expected = "no image"
    if state.on_own_database(site) and site.keep.load(USED):
        return not_applicable("the registry works on the database that this runbook gave it")
    first = next(iter(site.registry.catalog()), None) if enabled_everywhere(site) else None
    stored = [] if first else stored_images(site)
    if first is None and not stored:
        return passed("no image" if enabled_everywhere(site) else "no registry, and nothing in its storage", expected)
    found = f"the catalog begins with {first}" if first else f"the storage holds {', '.join(stored[:3])}"
    if site.role == "secondary" and not enabled_everywhere(site):
        return failed(
            f"{found}, of an earlier registry",
            expected,
            remedy="a secondary's registry begins with an empty storage: make sure that nobody needs these images, "
            "then empty it (procedures 1.4)",
        )
    if first is None and works_elsewhere(site):
        return failed(
            f"{found}, which the catalog does not show",
            expected,
            remedy="the registry has opened an empty database over a full storage, and hides it. If nothing was pushed "
            "since: registry['database']['enabled'] = false, remove the lock file database-in-use, reconfigure; then "
            "scenario migrate-legacy",
        )
    return failed(found, expected, remedy=HAS_IMAGES[_kind(site)])


def _kind(site: Site) -> str:
    """What keeps the metadata of a registry with images."""
    if not any(state.running_on_database(site).values()):
        return "legacy"
    configs = [config for _, config in state.registry_configs(site) if config]
    return "default" if any(is_default(config, site) for config in configs) else "external"


@check("no other external database is configured", source="procedures 1.4 step 5", evidence="source")
def no_other_database(site: Site) -> Finding:
    """An external hash that somebody wrote is not overwritten. The package's own database of a registry without images
    is: nothing is in it.
    """
    database = site.parameters.database
    expected = f"none, the package's own, or {database.host}:{database.port}/{database.name}"
    configs = [config for package, config in state.registry_configs(site) if config and package.registry_is_enabled()]
    other = [c for c in configs if not state.is_ours(c, site) and not is_default(c, site)]
    if other:
        host, port, name = other[0].database_address
        return failed(
            f"{host}:{port}/{name}",
            expected,
            remedy="remove registry['database'] from gitlab.rb, or name that database in the sites file if it is the "
            "right one",
        )
    if not configs:
        return passed("no registry", expected)
    return passed("its own" if all(state.is_ours(c, site) for c in configs) else "the package's own", expected)


@check("the database is new, or in use by this registry", source="procedures 2.3", evidence="run")
def database_is_unused(site: Site) -> Finding:
    """A database that anything else has written to, or works on, is not touched."""
    expected = "empty, or the registry's tables without content"
    if state.on_own_database(site):
        return not_applicable(importing.MOVED)
    database = site.metadata_db
    tables = database.tables()
    if tables and "schema_migrations" not in tables:
        return failed(
            f"{len(tables)} tables that are not the registry's: {', '.join(sorted(tables)[:5])}",
            expected,
            remedy="give the site an empty database: DROP DATABASE and CREATE DATABASE … OWNER …, if nobody needs it",
        )
    counts = database.counts(("repositories", "tags")) if tables else {}
    if any(counts.values()):
        return failed(
            f"{counts['repositories']} repositories and {counts['tags']} tags",
            expected,
            remedy="a registry uses it or has used it. Give this site an empty database of its own",
        )
    if sessions := state.other_sessions(site):
        return failed("; ".join(sessions), "nobody connected", remedy="find out what connects there, and end it")
    return passed("the registry's tables, without content" if tables else "empty", expected)


@check("the registry's tables are there, or reconfigure makes them", source="procedures 2.3, 3.2", evidence="run")
def schema_is_ready(site: Site) -> Finding:
    """A registry that is enabled before its tables are there does not start."""
    if not works_elsewhere(site):
        return importing.schema_is_current(site)
    if site.profile.supports("bundled-registry-database"):
        return passed("reconfigure makes them when the database is enabled", "there, or made by reconfigure")
    return failed(
        "the registry works on another database, and this release's reconfigure makes no tables",
        "there, or made by reconfigure",
        remedy="upgrade both sites to 18.3 or later first",
    )


@check("the token of the notifications is strong, and the one in use", source="procedures 2.4", evidence="source")
def token_fits(site: Site) -> Finding:
    """Letters and digits, the first a letter, 32 at least: it goes into Ruby, YAML and an HTTP header. One that GitLab
    on the primary knows already is used again.
    """
    token = site.options.notification_token.resolve().reveal()
    expected = "32 letters and digits at least, and the one that GitLab on the primary knows, if any"
    if TOKEN.fullmatch(token) is None:
        return failed(
            "too short, or with other characters", expected, remedy="openssl rand -hex 20, with a letter first"
        )
    known = site.sites.primary.rails.gitlab_yml().notification_secret
    if known and known != token:
        return failed(
            "GitLab on the primary knows another one",
            expected,
            remedy="let notification_token refer to the token in use: the Authorization header of endpoint geo_event",
        )
    return passed("strong, and in use" if known else "strong", expected)


@check("the primary's registry tells GitLab about pushes", source="procedures 2.4", evidence="source", scope="pair")
def primary_sends(sites: Sites) -> Finding:
    """Without it a secondary learns of pushes late, and of moved tags not at all."""
    if not state.on_own_database(sites.primary):
        return later("after the primary's registry works on its database")
    finding = notifications_fit(sites.primary)
    return finding if finding.verdict == "passed" else later("after section notifications")

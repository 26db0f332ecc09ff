"""The pair preflight: every setting that must be alike on the sites, or each site's own, read on both and compared
in one table. Source: procedures 1.4 (G0), 2.1 to 2.4, 7.2.

What a later procedure sets up is not missed before it: without Geo the secrets still differ, without registries there
is no storage to compare.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from georeg_nb.errors import GeoregError, NodeFileMissing
from georeg_nb.omnibus import SECRETS
from georeg_nb.procedures.guard import database, instance, registry, storage
from georeg_nb.readers import STORAGE_NAMES
from georeg_nb.runbook import Check, Finding, check, failed, later, not_applicable, passed, warning
from georeg_nb.site import Site, Sites

Stage = Literal["", "Geo", "registries", "replication"]
PG_HBA = "/var/opt/gitlab/postgresql/data/pg_hba.conf"
NO_UPGRADE = "/etc/gitlab/disable-postgresql-upgrade"
SHARED_SECRETS = ("gitlab_rails", "gitlab_shell", "gitlab_workhorse", "registry")
"""Sections of gitlab-secrets.json without which a secondary cannot read the primary's data or take its requests."""


@dataclass(frozen=True)
class Setting:
    """One thing that is alike on all sites. `read` gives what is compared, as text that may be shown; empty: unknown.

    `stage`: what must be set up before it can be asked. `serious`: a difference stops a run.
    """

    name: str
    read: Callable[[Site], str]
    remedy: str
    stage: Stage = ""
    serious: bool = True

    def ask(self, sites: Sites) -> Finding:
        """Alike, or what each site has."""
        values = {site.name: self.read(site) for site in sites.all}
        if "" in values.values():
            return not_applicable(f"not known on {', '.join(name for name, value in values.items() if not value)}")
        if len(set(values.values())) == 1:
            return passed(next(iter(values.values())))
        found = "; ".join(f"{name}: {value}" for name, value in values.items())
        return (failed if self.serious else warning)(found, "alike", remedy=self.remedy)


def _postgresql(site: Site) -> str:
    """Major version of the main database's server: a standby of another major is none."""
    command = ["gitlab-psql", "-d", "gitlabhq_production", "-tAc", "SHOW server_version"]
    return site.rails_node.run(command, check=False).stdout.strip().partition(".")[0]


def _glibc(site: Site) -> str:
    """By `ldd`, whose first line ends with it. Another one sorts otherwise: replicated indexes are then corrupt."""
    found = re.search(
        r"(\d+\.\d+)\s*$", site.rails_node.run(["ldd", "--version"], check=False).stdout.partition("\n")[0]
    )
    return found[1] if found else ""


def _storage_names(site: Site) -> str:
    names = site.rails.gitlab_yml().storage_names
    if not names:
        names = site.rails_node.run(["gitlab-rails", "runner", STORAGE_NAMES], timeout=300).stdout.split()
    return ", ".join(sorted(names))


def _upgrades(site: Site) -> str:
    return "off" if site.rails_node.exists(NO_UPGRADE) else "on"


SAME = (
    Setting("PostgreSQL major", _postgresql, "upgrade the packages to the same version, with the same PostgreSQL"),
    Setting("glibc", _glibc, "run both sites on the same release of the operating system"),
    Setting("names of the Git storages", _storage_names, "give gitlab_rails['repositories_storages'] the same names"),
)


@check("automatic upgrades of PostgreSQL are off", source="procedures 2.1", scope="pair")
def no_automatic_upgrade(sites: Sites) -> Finding:
    """A package upgrade that upgrades the primary's server breaks the standby."""
    on = [site.name for site in sites.all if _upgrades(site) == "on"]
    if on:
        return warning(f"on, on {' and '.join(on)}", "off", remedy=f"touch {NO_UPGRADE} on these nodes")
    return passed("off")


@check("the sites share GitLab's secrets", source="procedures 2.1, 7.2", evidence="source", scope="pair")
def secrets_are_shared(sites: Sites) -> Finding:
    """A secondary with other keys cannot read what the primary encrypted. Compared by a digest under a key of this
    moment; only the names of sections are shown.
    """
    pepper = secrets.token_bytes(32)
    first, *others = [(site.name, _digests(site, pepper)) for site in sites.all]
    differ = {
        name: [section for section in sorted({*first[1], *found}) if first[1].get(section) != found.get(section)]
        for name, found in others
    }
    told = "; ".join(f"{name}: {', '.join(sections)}" for name, sections in differ.items() if sections)
    if not told:
        return passed("equal")
    remedy = f"copy {SECRETS} from the primary (keep the old one), reconfigure and restart (procedure P1, step 15)"
    serious = any(section in SHARED_SECRETS for sections in differ.values() for section in sections)
    return (failed if serious else warning)(f"other than the primary's: {told}", "equal", remedy=remedy)


def _digests(site: Site, pepper: bytes) -> Mapping[str, str]:
    document: dict[str, Any] = json.loads(site.rails_node.read_file(SECRETS))
    return {
        name: hmac.new(pepper, json.dumps(value, sort_keys=True).encode(), hashlib.sha256).hexdigest()
        for name, value in document.items()
    }


@check("the secondary has the secret of the notifications", source="procedures 2.4", evidence="source", scope="pair")
def notification_secret_is_shared(sites: Sites) -> Finding:
    """It is used on the primary alone, and needed by whoever is promoted."""
    wanted = sites.primary.rails.gitlab_yml().notification_secret
    missing = [site.name for site in sites.secondaries if site.rails.gitlab_yml().notification_secret != wanted]
    if not missing:
        return passed("the primary's")
    remedy = "set gitlab_rails['registry_notification_secret'] there to the primary's, and reconfigure"
    return warning(f"another or none on {', '.join(missing)}", "the primary's", remedy=remedy)


@check("PostgreSQL is open to single addresses", source="procedures 2.1, 7.2", evidence="source", scope="pair")
def addresses_are_single(sites: Sites) -> Finding:
    """Each rule opens every database to every user that has a password: as rendered into pg_hba.conf."""
    wide, unknown = [], []
    for site in sites.all:
        try:
            text = site.rails_node.read_file(PG_HBA).decode()
        except NodeFileMissing:
            unknown.append(site.name)
            continue
        rules = re.findall(r"^host\w*\s+\S+\s+\S+\s+(\S+)\s+(?:md5|trust|scram-sha-256)", text, re.MULTILINE)
        wide += [f"{rule} on {site.name}" for rule in rules if not re.search(r"/(32|128)$", rule)]
    if wide:
        remedy = "give postgresql['md5_auth_cidr_addresses'] the sites' addresses, each with /32, and reconfigure"
        return warning("; ".join(wide), "/32 alone", remedy=remedy)
    if unknown:
        return not_applicable(f"no {PG_HBA} on {', '.join(unknown)}")
    return passed("/32 alone")


ROWS: tuple[tuple[Stage, str, Setting | Check], ...] = (
    ("", "alike", instance.versions_are_equal),
    *((setting.stage, "alike", setting) for setting in SAME),
    ("", "alike", instance.clocks_agree),
    ("", "alike", no_automatic_upgrade),
    ("", "each its own", database.databases_are_distinct),
    ("Geo", "alike", secrets_are_shared),
    ("Geo", "as procedure P1 sets it", addresses_are_single),
    ("registries", "alike", registry.same_signing_key),
    ("registries", "each its own", storage.storages_are_distinct),
    ("replication", "as procedure P4 sets it", registry.pulls_from_primary),
    ("replication", "alike", notification_secret_is_shared),
)


@check("the sites fit each other", source="procedures 1.4, 2.1 to 2.4, 7.2", evidence="source", scope="pair")
def sites_fit(sites: Sites) -> Finding:
    """What must be alike on the sites, and what must be each one's own: all of it in one table."""
    missing = _missing_stages(sites)
    rows, findings = [], []
    for stage, rule, part in ROWS:
        name = part.title if isinstance(part, Check) else part.name
        finding = later(f"comes with {missing[stage]}") if stage in missing else _ask(part, sites)
        findings.append((name, finding))
        told = {"verdict": finding.verdict, "setting": name, "rule": rule, "found": finding.found}
        rows.append(told | {"what to do": finding.remedy})
    return _together(findings, rows)


def _ask(part: Setting | Check, sites: Sites) -> Finding:
    """One row; what cannot be read on a site is a failed row, and the others are asked all the same."""
    try:
        return part(sites) if isinstance(part, Check) else part.ask(sites)
    except GeoregError as error:
        where = f"{error.site or error.node}: " if error.site or error.node else ""
        return failed(f"{where}{error.message.splitlines()[0]}", remedy=error.remedy)


def _together(findings: list[tuple[str, Finding]], rows: list[dict[str, str]]) -> Finding:
    expected = "alike, or each site's own"
    for verdict in ("failed", "warning"):
        wrong = [(name, finding) for name, finding in findings if finding.verdict == verdict]
        if wrong:
            found = "; ".join(f"{name}: {finding.found}" for name, finding in wrong)
            remedy = " – ".join(dict.fromkeys(finding.remedy for _, finding in wrong if finding.remedy))
            return Finding("failed" if verdict == "failed" else "warning", found, expected, remedy, rows)
    count = sum(1 for _, finding in findings if finding.verdict == "later")
    return passed("as they must be" + (f"; {count} settings come later" if count else ""), expected, rows=rows)


def _missing_stages(sites: Sites) -> dict[Stage, str]:
    """Stages that are not set up yet → the procedure that does it."""
    missing: dict[Stage, str] = {}
    if not all(any(entry.current for entry in site.gitlab.geo_sites()) for site in sites.all):
        missing["Geo"] = "procedure P1"
    if not all(site.omnibus.registry_is_enabled() for site in sites.all):
        missing["registries"] = "procedure P2"
    config = sites.primary.omnibus.registry_config()
    sends = config is not None and any(endpoint.get("name") == "geo_event" for endpoint in config.endpoints)
    if "registries" in missing or not (sends or any(_pulls(site) for site in sites.secondaries)):
        missing["replication"] = "procedure P4"
    return missing


def _pulls(site: Site) -> bool:
    rendered = site.rails.gitlab_yml()
    return rendered.replication_enabled or bool(rendered.primary_api_url)

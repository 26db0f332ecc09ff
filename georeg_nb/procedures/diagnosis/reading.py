"""What diagnosis reads of every site, once: logs, rendered files, services, databases, Geo, as facts by name.

Nothing is changed, and nothing raises: what cannot be read is itself a fact, `<name>.problem`. Source: procedures 2.0,
6.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from georeg_nb import redaction
from georeg_nb.errors import GeoregError
from georeg_nb.nodes import Node
from georeg_nb.omnibus import SECRETS, Omnibus, RegistryConfig, parse_status
from georeg_nb.procedures import state
from georeg_nb.procedures.diagnosis import gitlab_facts
from georeg_nb.procedures.diagnosis.gitlab_facts import lines, psql, words
from georeg_nb.procedures.guard.registry import EVENTS, trouble_of_pulling
from georeg_nb.site import Site, Sites

LOGS = "/var/log/gitlab"
LINES = 400  # of the end of each log
SINCE = timedelta(hours=1)  # older lines of a log say nothing about now
CURRENT = {
    "log.registry": "registry/current",
    "log.geo": "gitlab-rails/geo.log",
    "log.postgresql": "postgresql/current",
    "log.puma": "puma/current",
    "log.sidekiq": "sidekiq/current",
}
NEWEST = {"log.reconfigure": "reconfigure", "log.migrations": "registry"}
MIGRATION_LOG = re.compile(r"db-migrations-[\d-]+\.log")
TABLES = ("repositories", "manifests", "blobs", "tags")  # without any of these a migrated database serves nothing
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)")
_INSTANCE = re.compile(r'instance_id"?[=:]"?([\w-]+)')
Facts = dict[str, str]


def read_all(sites: Sites) -> dict[str, Facts]:
    """Site → its facts, all sites side by side."""
    with ThreadPoolExecutor(len(sites.all)) as pool:
        found = dict(zip([site.name for site in sites.all], pool.map(read_site, sites.all), strict=True))
    for name, facts in _pair_facts(sites).items():
        found[name].update(facts)
    return found


def read_site(site: Site) -> Facts:
    """The facts of one site."""
    facts: Facts = {"role": site.role}
    parts: dict[str, Callable[[Site], Mapping[str, str]]] = {
        "logs": _logs,
        "services": _services,
        "config": _config,
        "storage": _storage,
        "database": _database,
        "rails": gitlab_facts.rails,
        "geo": gitlab_facts.geo,
        "main": gitlab_facts.main_database,
    }
    with ThreadPoolExecutor(len(parts)) as pool:
        for name, answer in zip(parts, pool.map(lambda part: _asked(part, site), parts.values()), strict=True):
            facts.update({f"{name}.problem": answer} if isinstance(answer, str) else answer)
    facts["log.geo"] = still_true(facts.get("log.geo", ""), facts.get("geo.reported", ""))
    return {name: redaction.redact(text) for name, text in facts.items()}


def _asked(part: Callable[[Site], Mapping[str, str]], site: Site) -> Mapping[str, str] | str:
    try:
        return part(site)
    except GeoregError as error:
        return error.message
    except Exception as error:
        return f"{type(error).__name__}: {error}"


# logs


def _logs(site: Site) -> Facts:
    facts: Facts = {}
    for node in site.nodes:
        for name, path in CURRENT.items():
            text = _tail(node, f"{LOGS}/{path}")
            kept = since_last_start(text) if name == "log.registry" else recent(text)
            facts[name] = facts.get(name, "") + "".join(f"{line}\n" for line in kept if not _is_quiet(line))
        for name, folder in NEWEST.items():
            pattern = MIGRATION_LOG if name == "log.migrations" else re.compile(r"\d+\.log")
            facts[name] = facts.get(name, "") + _newest(node, f"{LOGS}/{folder}", pattern)
    return facts


def _tail(node: Node, path: str) -> str:
    return node.run(["tail", "-n", str(LINES), path], check=False).stdout


def _newest(node: Node, folder: str, pattern: re.Pattern[str]) -> str:
    """The newest file of that name, unless the registry was reconfigured or migrated again since."""
    listed = node.run(["ls", "-1t", folder], check=False).stdout.split()
    name = next((name for name in listed if pattern.fullmatch(name)), None)
    return "".join(f"{line}\n" for line in recent(_tail(node, f"{folder}/{name}"))) if name else ""


def since_last_start(text: str) -> list[str]:
    """The registry's log from its last start on: each start has an `instance_id` of its own on its lines."""
    kept: list[str] = []
    last = ""
    for line in reversed(text.splitlines()):
        found = _INSTANCE.search(line)
        if found and last and found[1] != last:
            break
        last = found[1] if found else last
        kept.insert(0, line)
    return kept


def recent(text: str, now: datetime | None = None) -> list[str]:
    """Lines of the last hour; a line without a time has that of the line before."""
    first, keep, kept = (now or datetime.now(UTC)) - SINCE, True, []
    for line in text.splitlines():
        if found := _TIME.search(line[:200]):
            keep = datetime.fromisoformat(f"{found[1]}T{found[2]}+00:00") >= first
        if keep:
            kept.append(line)
    return kept


def still_true(log: str, reported: str) -> str:
    """geo.log without the failed reports before the site's last one: that got through (services were restarted)."""
    kept = []
    for line in log.splitlines(keepends=True):
        found = _TIME.search(line[:200])
        passed = found is not None and f"{found[1]}T{found[2]}" <= reported
        if not (passed and "NodeStatusRequestService" in line):
            kept.append(line)
    return "".join(kept)


def _is_quiet(line: str) -> bool:
    return re.search(r'level"?[=:]"?(info|debug)|"severity": ?"(INFO|DEBUG)"', line) is not None


# the node


def _services(site: Site) -> Facts:
    down, known, registry = [], 0, []
    for node in site.nodes:
        found = parse_status(node.run(["gitlab-ctl", "status"], check=False).stdout)
        known += len(found)
        down += [f"{service.name} on {node.name}" for service in found.values() if not service.up]
        if "registry" in node.roles:
            service = found.get("registry")
            registry.append("not enabled" if service is None else "up" if service.up else "down")
    return {
        "services.down": lines(down),
        "services.all_down": words(bool(known) and len(down) == known),
        "services.registry": lines(registry),
    }


def _config(site: Site) -> Facts:
    facts: Facts = {"version": lines(dict.fromkeys(package.version() for package in site.packages()))}
    configs = [(package, config) for package, config in state.registry_configs(site) if config]
    facts["config.enabled"] = lines(_text(config.database.get("enabled")) for _, config in configs)
    facts["config.mode"] = lines(config.mode for _, config in configs)
    facts["config.host"] = lines(_text(config.database.get("host")) for _, config in configs)
    facts["config.read_only"] = lines(words(config.read_only) for _, config in configs)
    facts["config.drivers"] = lines(" ".join(config.drivers) or "none" for _, config in configs)
    facts["config.issuer"] = lines(config.issuer for _, config in configs)
    facts["config.sslrootcert"] = lines(_certificate(package, config) for package, config in configs)
    facts["config.endpoints"] = lines(line for _, config in configs for line in _endpoints(site, config))
    facts["rb.settings"] = lines(line for package in site.packages() for line in _settings(package))
    return facts


def _text(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _certificate(package: Omnibus, config: RegistryConfig) -> str:
    path = config.database.get("sslrootcert")
    return f"{path} {'there' if package.node.exists(str(path)) else 'missing'}" if path else ""


def _endpoints(site: Site, config: RegistryConfig) -> list[str]:
    """One line per endpoint: its name, whom it tells, whether its header is the secret of that GitLab, its retries."""
    secret = site.rails.gitlab_yml().notification_secret
    own = site.parameters.gitlab.url.rstrip("/") + EVENTS
    primary = site.sites.primary.parameters.gitlab.url.rstrip("/") + EVENTS
    found = []
    for endpoint in config.endpoints:
        url = str(endpoint.get("url"))
        headers = endpoint.get("headers") or {}
        given = headers.get("Authorization") or []
        tokens = [str(one) for one in (given if isinstance(given, list) else [given])]
        told = "events of the primary" if url == primary else "events of this site" if url == own else "another URL"
        header = "no header" if not tokens else "the secret" if tokens[-1] == secret else "another header"
        retries = "maxretries" if endpoint.get("maxretries") else "threshold only"
        found.append(f"{endpoint.get('name')}: {told}, {header}, {retries}")
    return found


def _settings(package: Omnibus) -> list[str]:
    """The settings of gitlab.rb that stand in a line of their own, without comments and secrets."""
    text = redaction.redact(package.gitlab_rb())
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _storage(site: Site) -> Facts:
    package = site.omnibus
    config = package.registry_config()
    facts = {"storage.lockfiles": str(package.lockfiles())}
    if config and config.root_directory:
        folder = f"{config.root_directory}/docker/registry/v2/repositories"
        found = package.node.run(["find", folder, "-mindepth", "1", "-maxdepth", "1"], check=False).stdout
        facts["storage.images"] = words(bool(found.strip()))
    return facts


def _database(site: Site) -> Facts:
    """The external database, as far as the sites file names one that answers."""
    database = site.metadata_db
    server = database.server()
    tables = database.tables()
    facts = {
        "database.in_recovery": words(server.in_recovery),
        "database.read_only": words(server.read_only_by_default),
        "database.bytea_output": server.bytea_output,
        "database.may_create": words(server.may_create),
        "database.migrated": words("schema_migrations" in tables),
        "database.missing": lines(name for name in TABLES if name not in tables),
    }
    if facts["database.migrated"] == "yes" and not facts["database.missing"]:
        counts = database.counts(("repositories", "tags"))
        facts |= {f"database.{name}": str(number) for name, number in counts.items()}
    return facts


# the sites against each other


def _pair_facts(sites: Sites) -> dict[str, Facts]:
    """What only both sites together tell: keys and issuers, the way to the primary's registry, slots."""
    pepper = secrets.token_bytes(32)
    keys = {site.name: _signing_key(site, pepper) for site in sites.all}
    found: dict[str, Facts] = {site.name: {} for site in sites.all}
    for site in sites.secondaries:
        facts = found[site.name]
        ours, theirs = keys[site.name], keys[sites.primary.name]
        if ours and theirs:
            facts["pair.signing_key"] = "the same" if ours == theirs else "different"
        answer = _asked(lambda one: _pulling(sites, one), site)
        facts.update({"pull.problem": answer} if isinstance(answer, str) else answer)
    answer = _asked(lambda one: _slots(sites, one), sites.primary)
    found[sites.primary.name].update({"slots.problem": answer} if isinstance(answer, str) else answer)
    return found


def _signing_key(site: Site, pepper: bytes) -> str:
    """A digest under a key of this moment; the key itself is never shown. Empty when it cannot be read."""
    try:
        registry = json.loads(site.rails_node.read_file(SECRETS)).get("registry") or {}
    except (GeoregError, ValueError):
        return ""
    return hmac.new(pepper, str(registry.get("internal_key")).encode(), hashlib.sha256).hexdigest()


def _pulling(sites: Sites, site: Site) -> Facts:
    issuers = {one.rails.gitlab_yml().registry_issuer for one in (sites.primary, site)}
    configs = (config for one in (sites.primary, site) for _, config in state.registry_configs(one))
    issuers |= {config.issuer for config in configs if config}
    realm = f"{sites.primary.parameters.gitlab.url}/jwt/auth"
    url = site.rails.gitlab_yml().primary_api_url.rstrip("/")
    return {
        "pair.issuer": "the same" if len(issuers) == 1 else "different",
        "pull.url": url,
        "pull.trouble": trouble_of_pulling(site.rails_node, url, realm),
    }


def _slots(sites: Sites, primary: Site) -> Facts:
    rows = psql(primary, "SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical'")
    return {"slots.missing": words(int(rows) < len(sites.secondaries))}

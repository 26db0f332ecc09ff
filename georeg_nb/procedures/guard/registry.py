"""The registries: running, legacy, whole storage, tokens, notifications. Source: procedures 2.0, 2.4, 3; registry 1
to 3.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets

from georeg_nb.nodes import Node
from georeg_nb.omnibus import REGISTRY_FOLDER, SECRETS
from georeg_nb.procedures import state
from georeg_nb.readers import CURL
from georeg_nb.runbook import Finding, check, expect, failed, passed, warning
from georeg_nb.site import Site, Sites

EVENTS = "/api/v4/container_registry_event/events"
CRONTABS = (
    "/etc/crontab",
    "/etc/cron.d",
    "/etc/cron.daily",
    "/etc/cron.weekly",
    "/etc/cron.monthly",
    "/var/spool/cron",
)


@check("the registry is enabled and running", source="procedures 2.0", evidence="source")
def registry_runs(site: Site) -> Finding:
    """On every registry node, by what is rendered and by the supervisor."""
    wrong = []
    for package in site.packages("registry"):
        service = package.service("registry")
        if not package.registry_is_enabled():
            wrong.append(f"not enabled on {package.node.name}")
        elif service is None or not service.up:
            wrong.append(f"down on {package.node.name}")
        elif (folder := package.registry_folder()) != REGISTRY_FOLDER:
            wrong.append(f"in {folder} on {package.node.name}, where neither GitLab's wrapper nor georeg looks")
    found = "; ".join(wrong) or "running on every registry node"
    return expect(
        found,
        "running on every registry node",
        remedy="registry_external_url or registry['dir'], reconfigure; or see its log",
    )


@check("the registry keeps its metadata in the storage", source="procedures 2.0, registry 3", evidence="run")
def registry_is_legacy_or_moved(site: Site) -> Finding:
    """By configuration, by what the running process says, and by the lock files; or it was moved by this runbook."""
    answers = set(state.running_on_database(site).values())
    said = answers.pop() if len(answers) == 1 else any(answers)
    files = state.lockfiles(site)
    running = {True: "database", False: "legacy", None: "does not say"}[said] + (" on some nodes" if answers else "")
    configs = [config for _, config in state.registry_configs(site)]
    modes = " and ".join(sorted({config.mode if config else "none" for config in configs}))
    found = f"configured: {modes}; running: {running}; lock files: {files}"
    if state.is_switching(site):
        return passed(f"{found}; pushes are refused on every node", "legacy, or moved, or on its way")
    if state.on_own_database(site):
        if said and not answers:
            return passed(f"moved already: {found}", "legacy, or moved to its own database")
        return failed(found, "running: database", remedy="`gitlab-ctl restart registry`, and see its log")
    expected = "configured: legacy; running: legacy; no lock file database-in-use"
    if "prefer" in modes and said:
        return failed(
            found,
            expected,
            remedy='with "prefer" and no lock file filesystem-in-use the registry has opened a database, and what the '
            "storage holds is hidden. If nothing was pushed since: registry['database']['enabled'] = false, remove the "
            "lock file database-in-use, reconfigure. Else this runbook is not for it",
        )
    if "database" in modes:
        return failed(
            found,
            expected,
            remedy="the registry works on another database than the sites file names: this runbook moves legacy "
            "metadata only",
        )
    if said is None:
        return failed(found, expected, remedy="is the address that of GitLab's own registry?")
    if said:
        return failed(found, expected, remedy="the process is older than its configuration: reconfigure, restart it")
    if files.database and not _ours(site):
        return failed(
            found,
            expected,
            remedy="this registry was on a database once: its newest images may exist there only. Find that out "
            "first; never "
            "delete the lock file blindly",
        )
    return passed(found, expected)


def _ours(site: Site) -> bool:
    """The lock file comes from an import of this runbook: it was not there when the window was opened."""
    last = state.window(site)
    return last is not None and not last.closed and last.lockfiles[0] is False


@check("the lock files contradict nothing", source="registry 3.3", evidence="run")
def lockfiles_agree(site: Site) -> Finding:
    """Both at once is an error everywhere; an enforcing registry would not start again."""
    files = state.lockfiles(site)
    if files.database is None:
        return warning(
            "not known: the storage cannot be looked at from the node",
            "not both",
            remedy="look for docker/registry/lockfiles/ in the bucket: database-in-use must not be there before the "
            "import",
        )
    if files.database and files.filesystem:
        return failed(
            "both", "one or none", remedy="decide from the database and the history which is true, and delete the other"
        )
    if files.filesystem and state.on_own_database(site):
        return failed(str(files), "database-in-use or none", remedy="remove filesystem-in-use: the database is in use")
    return passed(str(files), "one or none")


@check("no database but the site's own is configured", source="procedures 1.4, 2.0", evidence="source")
def no_foreign_database(site: Site) -> Finding:
    """An external hash that somebody wrote is not overwritten."""
    found, wrong = [], False
    for _, config in state.registry_configs(site):
        if config is None:
            continue
        address = ":".join(map(str, config.database_address))
        bundled = state.is_bundled(config) and config.mode != "database"
        ours = state.is_ours(config, site)
        found.append("the default, not enabled" if bundled else address)
        wrong = wrong or not (bundled or ours)
    database = site.parameters.database
    expected = f"the default, not enabled; or {database.host}:{database.port}:{database.name}"
    if wrong:
        return failed(
            "; ".join(found),
            expected,
            remedy="remove registry['database'] from gitlab.rb, or name that database in the sites file if it is "
            "the right one",
        )
    return passed("; ".join(dict.fromkeys(found)), expected)


@check("the catalog can be read, and is not empty", source="procedures 2.0, 5.5", evidence="run")
def catalog_is_readable(site: Site) -> Finding:
    """Also proves that the token flow works and that certificates are trusted."""
    first = next(iter(site.registry.catalog()), None)
    if first is None:
        return failed(
            "no repository",
            "at least one repository",
            remedy="a registry without images is set up new (procedure P3), there is nothing to import",
        )
    return passed(f"readable; begins with {first}", "at least one repository")


@check("pushes are accepted", source="procedures 4.3", evidence="run")
def not_read_only(site: Site) -> Finding:
    """A registry that is read-only now was left so by an earlier run, or by somebody else."""
    nodes = state.read_only_nodes(site)
    if not nodes:
        return passed("accepted", "accepted")
    opened = state.window(site)
    if opened and not opened.closed:  # also where it is open on some of the nodes only
        return warning(
            f"refused on {', '.join(nodes)} since {opened.opened}, by a run that was not finished",
            "accepted",
            remedy="apply this site's import section to go on, or `run.undo` its step read-only to let pushes in",
        )
    if state.block_there(site, state.READ_ONLY):
        return warning(
            f"refused on {', '.join(nodes)}, by a block of georeg's",
            "accepted",
            remedy="apply this site's import section to go on, or `run.undo` its step read-only to let pushes in",
        )
    return failed(
        f"refused on {', '.join(nodes)}, and not by georeg",
        "accepted",
        remedy="find out who made it read-only, and end it: the import opens and closes its own window",
    )


@check("the registry's log says that an import succeeded", source="registry 1.6", evidence="run")
def log_says_enough(site: Site) -> Finding:
    """Above level info the importer's last line is lost."""
    found = sorted({config.log_level for _, config in state.registry_configs(site) if config})
    return expect(" and ".join(found), "info", remedy="set registry['log_level'] = 'info' and reconfigure")


@check("no offline garbage collection is scheduled", source="registry 1.7", evidence="derived")
def no_offline_collection(site: Site) -> Finding:
    """In a crontab it is the classic trap: on a database it can delete what only the database knows."""
    found = []
    for node in site.registry_nodes:
        for place in CRONTABS:
            found += [
                f"{path} on {node.name}" for path, text in _texts(node, place) if "registry-garbage-collect" in text
            ]
    if found:
        return warning(
            "; ".join(found),
            "none",
            remedy="remove it before the import: it blocks pushes while it runs, and afterwards it has no place any "
            "more",
        )
    return passed("none found in the crontabs", "none")


def _texts(node: object, place: str) -> list[tuple[str, str]]:
    """Files of a crontab, or of a folder of them (one level)."""
    found = []
    for path in [place, *_children(node, place)]:
        try:
            found.append((path, node.read_file(path).decode(errors="replace")))  # type: ignore[attr-defined]
        except Exception:  # noqa: S112 - a folder, or not ours to read: a hint, not a proof
            continue
    return found


def _children(node: object, place: str) -> list[str]:
    try:
        return [f"{place}/{name}" for name in node.list_dir(place)]  # type: ignore[attr-defined]
    except Exception:
        return []


@check("notifications reach GitLab", source="procedures 2.4", evidence="run")
def notifications_fit(site: Site) -> Finding:
    """On the primary one endpoint named geo_event with the very token that Rails expects; on secondaries none."""
    config, rails = site.omnibus.registry_config(), site.rails.gitlab_yml()
    found = [endpoint for endpoint in (config.endpoints if config else []) if endpoint.get("name") == "geo_event"]
    if site.role == "secondary":
        remedy = "remove registry['notifications'] from the secondary: GitLab answers it with 401"
        return expect("geo_event" if found else "none", "none", remedy=remedy)
    if len(found) != 1:
        return failed(
            f"{len(found)} endpoints named geo_event", "one", remedy="set up registry replication first (procedure P4)"
        )
    url, headers = str(found[0].get("url")), found[0].get("headers") or {}
    token = (headers.get("Authorization") or [""])[-1]
    problems = []
    if url != f"{site.parameters.gitlab.url}{EVENTS}":
        problems.append(f"its URL is {url}")
    if not rails.notification_secret or token != rails.notification_secret:
        problems.append("its token is not the one that GitLab expects")
    if "threshold" in found[0] and "maxretries" not in found[0]:
        problems.append("it retries for ever (threshold)")
    if problems:
        return failed(
            "; ".join(problems),
            f"{site.parameters.gitlab.url}{EVENTS}, with GitLab's token",
            remedy="see procedure P4, steps 2 and 3; the token is the Authorization header itself, without 'Bearer'",
        )
    return passed("geo_event, with GitLab's token", "geo_event, with GitLab's token")


@check("the secondary pulls from the primary's registry", source="procedures 2.4", evidence="source", scope="pair")
def pulls_from_primary(sites: Sites) -> Finding:
    """A wrong address, or one that the secondary cannot reach or does not trust, ends as failed syncs only after the
    resync. It is asked on the nodes that sync, with the authorities that GitLab trusts there.
    """
    wanted, realm = sites.primary.parameters.registry.url, f"{sites.primary.parameters.gitlab.url}/jwt/auth"
    rows = []
    for site in sites.secondaries:
        url = site.rails.gitlab_yml().primary_api_url
        for node in site.with_role("sidekiq") or [site.rails_node]:
            trouble = trouble_of_pulling(node, url.rstrip("/"), realm)
            rows.append({"site": site.name, "primary_api_url": url, "node": node.name, "trouble": trouble})
    found = "; ".join(dict.fromkeys(f"{row['site']}: {row['primary_api_url'] or 'not set'}" for row in rows))
    if any(row["trouble"] for row in rows):
        told = "; ".join(f"on {row['node']}: {row['trouble']}" for row in rows if row["trouble"])
        return failed(
            f"{found}; {told}",
            wanted,
            remedy="correct gitlab_rails['geo_registry_replication_primary_api_url'] on the secondary (scheme and port "
            "too), open the way from there, or put the authority into its /etc/gitlab/trusted-certs; then reconfigure",
            rows=rows,
        )
    if any(row["primary_api_url"].rstrip("/") != wanted for row in rows):
        return warning(
            f"{found}; it answers as a registry of {realm.removesuffix('/jwt/auth')}",
            wanted,
            remedy="make sure that it is the primary's own registry under another address, and not the secondary's",
            rows=rows,
        )
    return passed(found, f"{wanted}, which answers", rows=rows)


def trouble_of_pulling(node: Node, url: str, realm: str) -> str:
    """Why a node cannot pull from this address; empty when a registry there wants tokens of the primary's GitLab."""
    if not re.fullmatch(r"https?://[\w.:\[\]-]+", url):
        return "no address" if url else "not set"
    asked = node.run(["/opt/gitlab/embedded/bin/curl", *CURL, f"{url}/v2/"], check=False)
    if asked.status:
        return asked.stderr.strip() or f"curl ended with {asked.status}"
    challenge = re.search(r'^www-authenticate: *bearer realm="([^"]*)"', asked.stdout, re.IGNORECASE | re.MULTILINE)
    if challenge is None:
        return f"no registry that asks for tokens answers: {asked.stdout.partition(chr(10))[0].strip() or 'nothing'}"
    return "" if challenge[1] == realm else f"it is the registry of another GitLab ({challenge[1]})"


@check(
    "all sites sign registry tokens with the same key", source="procedures 2.4, 7.2", evidence="source", scope="pair"
)
def same_signing_key(sites: Sites) -> Finding:
    """Key, certificate and issuer; compared by a digest under a key of this moment, never shown."""
    pepper = secrets.token_bytes(32)
    rows, issuers = [], set()
    for site in sites.all:
        document = json.loads(site.rails_node.read_file(SECRETS))
        registry = document.get("registry") or {}
        pair = "\0".join(str(registry.get(name, "")) for name in ("internal_key", "internal_certificate"))
        config, rails = site.omnibus.registry_config(), site.rails.gitlab_yml()
        rows.append(
            {
                "site": site.name,
                "key pair": hmac.new(pepper, pair.encode(), hashlib.sha256).hexdigest(),
                "issuer of GitLab": rails.registry_issuer,
                "issuer of the registry": config.issuer if config else "",
            }
        )
        if rails.registry_enabled:  # else there is no issuer yet
            issuers |= {rails.registry_issuer, config.issuer if config else ""}
    keys = {row["key pair"] for row in rows}
    shown = [{name: value for name, value in row.items() if name != "key pair"} for row in rows]
    issuer = " and ".join(sorted(issuers)) or "of no registry"
    found = f"{'one key' if len(keys) == 1 else 'different keys'}; issuer {issuer}"
    if len(keys) == 1 and len(issuers) <= 1:
        return passed(found, "one key, one issuer", rows=shown)
    return failed(
        found,
        "one key, one issuer",
        remedy="copy gitlab-secrets.json from the primary, set the same registry_issuer, reconfigure (procedure P4)",
        rows=shown,
    )

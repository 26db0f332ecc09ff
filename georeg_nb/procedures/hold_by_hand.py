"""Hold, release, resync and verify at a node's prompt, without georeg. Source: procedures 2.6 H1 to H5, 2.7 row 6."""

from __future__ import annotations

import json
import shlex

from georeg_nb.gitlab_api import REGISTRY_CLASS, RESYNC_ALL
from georeg_nb.omnibus import GITLAB_YML, REGISTRY_CONFIG
from georeg_nb.procedures import shell, state
from georeg_nb.readers import REPLICATION_ENABLED, RUNNING_SYNC_JOBS, SYNC_LEASES
from georeg_nb.runbook.by_hand import ByHand, Paste
from georeg_nb.site import Site

ROLES = ("rails", "sidekiq")
BOTH_WAYS = (
    "only while every site is as every other: all legacy, or all on their databases, each equal to its own storage. "
    "Geo removes from a secondary what it does not see on the primary"
)


def _rendered(site: Site, value: str, also: str = "") -> Paste:
    asked = f"sed -n '/^ *registry_replication:/,/enabled:/p' {GITLAB_YML} | grep -q 'enabled: {value}'"
    return Paste([node.name for node in site.with_role(*ROLES)], asked + also)


def _says(site: Site, value: str) -> Paste:
    return Paste(
        [site.rails_node.name],
        f'[ "$(gitlab-rails runner {shlex.quote(REPLICATION_ENABLED)})" = {value} ] && echo {value}',
        f"proof: image sync is {'held' if value == 'false' else 'going on'}",
    )


def _hold(site: Site, setting: str) -> list[Paste]:
    counts = " && ".join(
        f'[ "$(gitlab-rails runner {shlex.quote(expression)})" = 0 ]' for expression in (RUNNING_SYNC_JOBS, SYNC_LEASES)
    )
    return [
        shell.change(
            site, "hold image sync; everything else of Geo goes on", shell.put(state.HOLD, setting), roles=ROLES
        ),
        _says(site, "false"),
        Paste([site.rails_node.name], f"until {counts}; do sleep 5; done", "running syncs end (a lease: up to 8 h)"),
    ]


def _release(site: Site) -> list[Paste]:
    return [
        shell.change(site, "release image sync", shell.drop(state.HOLD), roles=ROLES),
        _says(site, "true"),
        shell.first(site, "so that a later run knows it", 'rm -f "$kept/hold.json"'),
    ]


def hold(site: Site, setting: str, over: str = shell.ENABLED) -> ByHand:
    """The block that the step writes. `over`: a test that the site is where the hold was for."""
    return ByHand(
        done=[_rendered(site, "false", f" || {over}")],  # or it is over: this site has moved
        finish=_hold(site, setting),
        undo=_release(site),
        loses="events of images while it was held are skipped: after going BACK do resync-everything too",
        notes=["BACK is the last of all steps back, " + BOTH_WAYS],
    )


def release(site: Site, setting: str, over: str = shell.ENABLED) -> ByHand:
    """The end of the hold."""
    return ByHand(
        done=[_rendered(site, "true", f" && {{ [ ! -e {REGISTRY_CONFIG} ] || {over}; }}")],
        finish=_release(site),
        undo=_hold(site, setting),
        loses="Geo then removes from this site what the primary does not have",
        notes=["ON " + BOTH_WAYS + ": see compare on every site"],
    )


def resync(site: Site, number: int) -> ByHand:
    """The same call, with a token that is typed. `number`: the site's id in GitLab."""
    body = json.dumps(
        {"query": " ".join(RESYNC_ALL.split()), "variables": {"class": REGISTRY_CLASS, "action": "RESYNC_ALL"}}
    )
    url = f"{site.sites.primary.parameters.gitlab.url.rstrip('/')}/api/v4/geo/node_proxy/{number}/graphql"
    return ByHand(
        finish=[
            Paste(
                [site.rails_node.name],
                'printf \'header = "PRIVATE-TOKEN: %s"\\n\' "$token" |\n'
                f"    web -K - -H 'Content-Type: application/json' -d {shlex.quote(body)} {url} |\n"
                "    tee /dev/stderr | grep -q '\"errors\": *\\[\\]'",
                "sync everything again (or: Admin > Geo > Sites > Container repositories > Resync all); the answer "
                "must have no errors. Then see conclude on every site",
            )
        ],
        no_undo="a sync brings this site to what the primary has; there is nothing to take back",
    )


def conclude(site: Site) -> ByHand:
    """Two numbers, one from each site."""
    names = [f"{other.name}: {other.registry_nodes[0].name}" for other in site.sites.all]
    return ByHand(
        finish=[
            Paste(
                [other.registry_nodes[0].name for other in site.sites.all],
                "tags_in_db | sha256sum",
                f"the same number on each of {', '.join(names)} (each with its own site's names): the same images. "
                "Where they differ, compare the lists that `tags_in_db` shows; what is under way arrives in minutes",
            )
        ],
        no_undo="it changes nothing",
    )

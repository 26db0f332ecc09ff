"""Adding a registry at a node's prompt, without georeg: what each step stands for. Source: procedures 2.2 to 2.4."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping

from georeg_nb import gitlab_rb
from georeg_nb.omnibus import GITLAB_YML, REGISTRY_CONFIG, REGISTRY_SERVICE, Omnibus
from georeg_nb.procedures import hold_sync, shell, state
from georeg_nb.procedures.add_registry import blocks
from georeg_nb.procedures.import_metadata import by_hand as importing
from georeg_nb.procedures.import_metadata.blocks import database_block
from georeg_nb.runbook.by_hand import ByHand, Paste
from georeg_nb.site import Site

TYPED = importing.TYPED
BACK_UNUSED = "only before the first push: what was pushed is in this database alone"


def instruction(site: Site, changes: Callable[[Omnibus], Mapping[str, str | None]], *roles: str) -> str | None:
    """What to do where another tool owns the gitlab.rb of a node of these roles, node by node where they differ."""
    different: dict[tuple[tuple[str, str | None], ...], list[str]] = {}
    for package in site.packages(*roles):
        different.setdefault(tuple(changes(package).items()), []).append(package.node.name)
    texts = [hold_sync.by_hand(site, dict(key), *roles, only=names) for key, names in different.items()]
    return "\n".join(text for text in texts if text) or None


def _named(site: Site, *roles: str, without: str = "") -> list[str]:
    return [node.name for node in site.with_role(*roles) if without not in node.roles]


def enable(site: Site) -> ByHand:
    """The registry's address, and its database named and not enabled."""
    nodes = [node.name for node in site.registry_nodes]
    ask, put = importing.put_database(site, database_block(site, enabled=False, password=TYPED))
    first = next(package for package in site.packages("registry"))
    finish = [
        ask,
        shell.change(
            site,
            "enable the registry",
            shell.put(blocks.REGISTRY, blocks.registry_block(site, first)),
            put,
        ),
    ]
    rails = [package for package in site.packages(*blocks.RAILS) if "registry" not in package.node.roles]
    if rails:
        body = shell.put(blocks.REGISTRY, blocks.registry_block(site, rails[0]))
        names = [package.node.name for package in rails]
        finish.append(shell.change(site, "tell Rails where it is", body, nodes=names))
    everywhere = (*blocks.RAILS, "registry")
    drop = [shell.drop(blocks.REGISTRY), shell.drop(state.DATABASE)]
    return ByHand(
        done=[Paste(nodes, f"[ -e {REGISTRY_SERVICE} ] && gitlab-ctl status registry")],
        finish=finish,
        undo=[shell.change(site, "switch the registry off", *drop, roles=everywhere)],
        notes=["BACK only while there is no image in it"],
    )


def enable_database(site: Site, block: str) -> ByHand:
    """The whole hash with `enabled` true; back with false, and without the lock file that keeps legacy mode out."""
    ask, put = importing.put_database(site, block)
    _, back = importing.put_database(site, database_block(site, enabled=False, password=TYPED))
    empty = "[ \"$(db -c 'SELECT count(*) FROM repositories')\" = 0 ]"
    return ByHand(
        done=[Paste([node.name for node in site.registry_nodes], shell.ENABLED)],
        finish=[
            ask,
            shell.change(site, "work on the database", put),
            shell.everywhere(site, "proof: this must say true", '[ "$(on_database)" = true ] && echo true'),
        ],
        undo=[
            shell.first(
                site,
                "nothing was pushed, and the lock file goes",
                f'{empty} && {{ [ -z "$locks" ] || rm -f "$locks/database-in-use"; }}',
            ),
            ask,
            shell.change(site, "name the database, not enabled", back),
        ],
        loses=f"BACK {BACK_UNUSED}",
    )


def _ask_token(names: list[str]) -> Paste:
    return Paste(names, "ask secret  # then type it", "the notifications' token, as notification_token refers to it")


def _typed(body: str) -> str:
    return importing.for_shell(body).replace(TYPED, '$(in_ruby "$secret")')


def send_notifications(site: Site) -> ByHand:
    """The endpoint alone: endpoints of others are written into the array by hand."""
    names = _named(site, "registry", *blocks.RAILS)
    registry = [
        gitlab_rb.assignment("registry", ["notifications"], [blocks.endpoint(site, TYPED)]),
        blocks.secret_line(TYPED),
    ]
    found = [f"grep -q geo_event {REGISTRY_CONFIG}"]
    finish = [
        _ask_token(names),
        shell.change(site, "send events", shell.put(blocks.NOTIFICATIONS, _typed("\n".join(registry)), expand=True)),
    ]
    if rails := _named(site, *blocks.RAILS, without="registry"):
        line = shell.put(blocks.NOTIFICATIONS, _typed(blocks.secret_line(TYPED)), expand=True)
        finish.append(shell.change(site, "tell Rails the token", line, nodes=rails))
    others = blocks.names_of_others(site)
    notes = [f"add the endpoints that are there now to the array: {', '.join(others)}"] if others else []
    return ByHand(
        done=[Paste([node.name for node in site.registry_nodes], " && ".join(found))],
        finish=finish,
        undo=[
            shell.change(site, "send no events", shell.drop(blocks.NOTIFICATIONS), roles=("registry", *blocks.RAILS))
        ],
        loses="BACK: pushes reach the secondaries late, by the consistency check alone, or not at all",
        notes=notes,
    )


def replicate_images(site: Site) -> ByHand:
    """The three settings."""
    names = _named(site, *blocks.RAILS)
    asked = f"sed -n '/^ *registry_replication:/,/enabled:/p' {GITLAB_YML} | grep -q 'enabled: true'"
    pull = shlex.quote(site.sites.primary.parameters.registry.url)
    body = _typed(blocks.replication_block(site, TYPED))
    return ByHand(
        done=[Paste(names, asked)],
        finish=[
            Paste(
                names,
                f"web -o /dev/null -w '%{{http_code}}\\n' {pull}/v2/ | grep 401",
                "the primary's registry answers",
            ),
            _ask_token(names),
            shell.change(
                site, "replicate images", shell.put(blocks.REPLICATION, body, expand=True), roles=blocks.RAILS
            ),
        ],
        undo=[shell.change(site, "replicate no images", shell.drop(blocks.REPLICATION), roles=blocks.RAILS)],
        loses="BACK: images stay behind on this site from then on",
    )

"""P2: the registry is switched on, on one node or on many. Source: procedures 2.2, 1.4."""

from __future__ import annotations

from georeg_nb.errors import StepFailed
from georeg_nb.omnibus import Omnibus
from georeg_nb.procedures import standing, state
from georeg_nb.procedures.add_registry import blocks, by_hand, checks
from georeg_nb.procedures.guard.registry import trouble_of_pulling
from georeg_nb.procedures.hold_sync import RESTART_LIMIT
from georeg_nb.procedures.import_metadata.blocks import database_block
from georeg_nb.procedures.import_metadata.window import registry_down
from georeg_nb.runbook import Done, Finding, Plan, Step, expect, failed, passed
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site

ROLES = (*blocks.RAILS, "registry")


class EnableRegistry(Step):
    """The registry runs, with its external database named and not enabled: at its first start it would else adopt the
    package's own, which on a secondary is a read-only copy. Source: procedures 2.2 steps 1 to 3, 1.4 step 4.
    """

    name = "enable-registry"
    title = "Enable the registry, its own database named and not enabled yet"
    interrupts = "puma, sidekiq and the registry restart, nginx reloads (seconds)"
    evidence = "source"
    source = "procedures 2.2, 2.3 step 2, 1.4"
    needs = (checks.no_images, checks.no_other_database)

    def is_done(self, site: Site) -> bool | Done:
        return Done("the registry runs on every registry node") if checks.enabled_everywhere(site) else False

    def manual(self, site: Site) -> str | None:
        return by_hand.instruction(site, lambda package: self._blocks(site, package), *ROLES)

    def plan(self, site: Site) -> Plan:
        changes = state.file_changes(site, lambda package: self._blocks(site, package), *ROLES)
        several = len(site.registry_nodes) > 1
        note = (
            "the registry listens on 127.0.0.1:5000 unless registry['registry_http_addr'] says where" if several else ""
        )
        return Plan(changes, duration="1 to 5 min for each node", note=note)

    def apply(self, site: Site) -> None:
        def differences(package: Omnibus) -> list[str]:
            roles, wrong = package.node.roles, []
            if "registry" in roles:
                wrong += registry_down(package) if package.registry_is_enabled() else ["the registry is not set up"]
            if roles & set(blocks.RAILS):
                wrong += [] if package.gitlab_yml().registry_enabled else ["gitlab.yml knows of no registry"]
                site.gitlab.version()  # puma was restarted: the next steps ask it
            return wrong

        site.change_gitlab_rb(
            self.name, lambda package: self._blocks(site, package), differences, *ROLES, patience=RESTART_LIMIT
        )

    def verify(self, site: Site) -> list[Finding]:
        return [running(site), answers(site), tokens_are_taken(site)]

    def break_glass(self, site: Site) -> ByHand:
        return by_hand.enable(site)

    def undo(self, site: Site) -> None:
        if state.on_own_database(site):
            raise StepFailed("the registry works on its database: undo enable-database first", site=site.name)
        if checks.no_images(site).failed:
            raise StepFailed("there are images in the registry", site=site.name)

        def differences(package: Omnibus) -> list[str]:
            if "registry" in package.node.roles and package.registry_is_enabled():
                return ["the registry is still set up: gitlab.rb enables it elsewhere too"]
            site.gitlab.version()
            return []

        removed = {blocks.REGISTRY: None, state.DATABASE: None}
        site.change_gitlab_rb(f"{self.name}-undo", removed, differences, *ROLES, patience=RESTART_LIMIT)

    def state_after_failure(self, site: Site) -> str:
        return standing.describe_all(site)

    @staticmethod
    def _blocks(site: Site, package: Omnibus) -> dict[str, str | None]:
        found: dict[str, str | None] = {blocks.REGISTRY: blocks.registry_block(site, package)}
        if "registry" in package.node.roles:
            found[state.DATABASE] = database_block(site, enabled=checks.has_worked_on_a_database(site))
        return found


def running(site: Site) -> Finding:
    """By the supervisor's word, on every registry node."""
    return expect("running" if checks.enabled_everywhere(site) else "not running everywhere", "running")


def answers(site: Site) -> Finding:
    """The proof of procedures 2.2: at its public address the registry wants tokens of the site's own GitLab."""
    url, realm = site.parameters.registry.url, f"{site.parameters.gitlab.url}/jwt/auth"
    trouble = trouble_of_pulling(site.rails_node, url, realm)
    if trouble:
        return failed(
            f"{url}: {trouble}",
            f"asks for tokens of {realm}",
            remedy="does the name lead to this site, is the certificate valid for it, and does nothing else use the "
            "port? (procedures 2.2)",
        )
    return passed(f"{url} asks for tokens of {realm}", f"asks for tokens of {realm}")


def tokens_are_taken(site: Site) -> Finding:
    """A token of GitLab's is accepted: the key pair agrees, and the way from here is trusted."""
    identity = site.registry.identity()
    return passed(f"a token is accepted (registry {identity.version or 'of unknown version'})", "a token is accepted")

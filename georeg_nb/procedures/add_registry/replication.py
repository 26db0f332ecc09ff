"""P4: the primary's registry tells GitLab about every push, and the secondaries pull. Source: procedures 2.4."""

from __future__ import annotations

from georeg_nb.omnibus import Omnibus
from georeg_nb.procedures import standing, state
from georeg_nb.procedures.add_registry import blocks, by_hand, checks
from georeg_nb.procedures.guard.registry import notifications_fit, pulls_from_primary, same_signing_key
from georeg_nb.procedures.hold_sync import RESTART_LIMIT, ask_rails
from georeg_nb.procedures.import_metadata.checks import registry_works_on_its_database
from georeg_nb.procedures.import_metadata.window import registry_down
from georeg_nb.readers import REPLICATION_ENABLED
from georeg_nb.runbook import Done, Finding, Plan, Step, expect
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site


def _token(site: Site) -> str:
    return str(site.options.notification_token.resolve().reveal())


class SendNotifications(Step):
    """The registry posts every push to GitLab, with a token that GitLab knows. Source: procedures 2.4 steps 1 to 3."""

    name = "send-notifications"
    title = "Send the registry's events to GitLab"
    interrupts = "the registry, puma and sidekiq restart (seconds)"
    evidence = "run"
    source = "procedures 2.4, 4.2"
    needs = (checks.token_fits, registry_works_on_its_database)

    def is_done(self, site: Site) -> bool | Done:
        if any(_differences(site, package) for package in site.packages("registry", *blocks.RAILS)):
            return False
        return Done("every registry node sends its events, with GitLab's token")

    def manual(self, site: Site) -> str | None:
        return by_hand.instruction(site, lambda package: self._blocks(site, package), "registry", *blocks.RAILS)

    def plan(self, site: Site) -> Plan:
        changes = state.file_changes(site, lambda package: self._blocks(site, package), "registry", *blocks.RAILS)
        others = blocks.names_of_others(site)
        note = f"endpoints of others stay: {', '.join(others)}" if others else ""
        return Plan(changes, duration="1 to 5 min", note=note)

    def apply(self, site: Site) -> None:
        def differences(package: Omnibus) -> list[str]:
            site.gitlab.version()  # puma was restarted
            down = registry_down(package) if "registry" in package.node.roles else []
            return down + _differences(site, package)

        site.change_gitlab_rb(
            self.name,
            lambda package: self._blocks(site, package),
            differences,
            "registry",
            *blocks.RAILS,
            patience=RESTART_LIMIT,
        )

    def verify(self, site: Site) -> Finding:
        return notifications_fit(site)

    def break_glass(self, site: Site) -> ByHand:
        return by_hand.send_notifications(site)

    def undo(self, site: Site) -> None:
        removed = {blocks.NOTIFICATIONS: None}
        site.change_gitlab_rb(f"{self.name}-undo", removed, _registry_is_down, "registry", *blocks.RAILS)

    def state_after_failure(self, site: Site) -> str:
        return standing.describe_all(site)

    @staticmethod
    def _blocks(site: Site, package: Omnibus) -> dict[str, str | None]:
        return {blocks.NOTIFICATIONS: blocks.notifications_block(site, package, _token(site))}


def _differences(site: Site, package: Omnibus) -> list[str]:
    """What a node of the primary does not show yet."""
    token, wrong = _token(site), []
    if "registry" in package.node.roles:
        config, wanted = package.registry_config(), blocks.endpoint(site, token)
        found = [one for one in (config.endpoints if config else []) if one.get("name") == "geo_event"]
        same = [one for one in found if one.get("url") == wanted["url"] and one.get("headers") == wanted["headers"]]
        if len(found) != 1 or not same:
            wrong.append("config.yml has not exactly one endpoint geo_event with this site's address and token")
    if package.node.roles & set(blocks.RAILS) and package.gitlab_yml().notification_secret != token:
        wrong.append("gitlab.yml does not have the notifications' token")
    return wrong


def _registry_is_down(package: Omnibus) -> list[str]:
    return registry_down(package) if "registry" in package.node.roles else []


class ReplicateImages(Step):
    """This secondary pulls the primary's images into its own registry. Source: procedures 2.4 steps 4 and 5."""

    name = "replicate-images"
    title = "Replicate images to this site"
    interrupts = "puma, sidekiq and geo-logcursor restart (seconds)"
    evidence = "source"
    source = "procedures 2.4"
    needs = (checks.token_fits, registry_works_on_its_database, checks.primary_sends, same_signing_key)

    def is_done(self, site: Site) -> bool | Done:
        if any(_not_replicating(site, package) for package in site.packages(*blocks.RAILS)):
            return False
        if ask_rails(site, REPLICATION_ENABLED) != "true":
            return False
        return Done("image replication is on, and pulls from the primary's registry")

    def manual(self, site: Site) -> str | None:
        return by_hand.instruction(site, lambda package: self._blocks(site), *blocks.RAILS)

    def plan(self, site: Site) -> Plan:
        return Plan(
            state.file_changes(site, self._blocks(site), *blocks.RAILS),
            duration="1 to 5 min",
            note="the registry itself gets no notifications here: GitLab on a secondary answers them with 401",
        )

    def apply(self, site: Site) -> None:
        def differences(package: Omnibus) -> list[str]:
            site.gitlab.version()  # puma was restarted
            return _not_replicating(site, package)

        site.change_gitlab_rb(self.name, self._blocks(site), differences, *blocks.RAILS, patience=RESTART_LIMIT)

    def verify(self, site: Site) -> list[Finding]:
        on = ask_rails(site, REPLICATION_ENABLED)
        return [
            expect(f"replication of images: {on}", "replication of images: true", remedy="see gitlab.rb and geo.log"),
            pulls_from_primary(site.sites),
        ]

    def break_glass(self, site: Site) -> ByHand:
        return by_hand.replicate_images(site)

    def undo(self, site: Site) -> None:
        def differences(package: Omnibus) -> list[str]:
            site.gitlab.version()
            return ["gitlab.yml still replicates images"] if package.gitlab_yml().replication_enabled else []

        removed = {blocks.REPLICATION: None}
        site.change_gitlab_rb(f"{self.name}-undo", removed, differences, *blocks.RAILS, patience=RESTART_LIMIT)

    def state_after_failure(self, site: Site) -> str:
        return standing.describe_all(site)

    @staticmethod
    def _blocks(site: Site) -> dict[str, str | None]:
        return {blocks.REPLICATION: blocks.replication_block(site, _token(site))}


def _not_replicating(site: Site, package: Omnibus) -> list[str]:
    """What a Rails node of a secondary does not show yet."""
    found, url = package.gitlab_yml(), site.sites.primary.parameters.registry.url
    wrong = [] if found.replication_enabled else ["gitlab.yml does not have replication of images on"]
    if found.primary_api_url.rstrip("/") != url:
        wrong.append(f"gitlab.yml does not pull from {url}")
    if found.notification_secret != _token(site):
        wrong.append("gitlab.yml does not have the notifications' token")
    return wrong

"""P3: an empty registry begins on the site's own external database. Source: procedures 2.3.

The steps before the switch are those of an import, which names the database and makes its tables in the same way.
"""

from __future__ import annotations

from georeg_nb.errors import StepFailed
from georeg_nb.omnibus import LOCKFILES, Omnibus
from georeg_nb.procedures import standing, state
from georeg_nb.procedures.add_registry import by_hand, checks
from georeg_nb.procedures.import_metadata import prepare
from georeg_nb.procedures.import_metadata.blocks import database_block
from georeg_nb.procedures.import_metadata.window import registry_down
from georeg_nb.runbook import Done, Finding, Plan, Step, expect, failed, passed
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site

AT_ONCE = (
    "the registry has worked on another database, and would not start with it switched off: enable-database does both"
)


class ConnectDatabase(prepare.ConnectDatabase):
    """The registry's tools know the connection; the registry goes on without it. Source: procedures 2.3 step 2."""

    source = "procedures 2.3 steps 2 to 4, 4.2"
    needs = (checks.no_images, checks.no_other_database, checks.database_is_unused)

    def skip(self, site: Site) -> str | None:
        return AT_ONCE if checks.works_elsewhere(site) else None


class MigrateSchema(prepare.MigrateSchema):
    """The registry's tables are made before it is enabled, so that each failure has its own message. Source: procedures
    2.3 step 5.
    """

    source = "procedures 2.3 step 5"
    needs = (checks.no_images, checks.database_is_unused)

    def skip(self, site: Site) -> str | None:
        return AT_ONCE if checks.works_elsewhere(site) else None


class EnableDatabase(Step):
    """The registry works on its own database from its first image on. Source: procedures 2.3 step 6."""

    name = "enable-database"
    title = "Switch the empty registry to its own database"
    interrupts = "the registry restarts (seconds)"
    evidence = "run"
    source = "procedures 2.3 step 6 and notes, 3.3"
    needs = (checks.no_images, checks.no_other_database, checks.database_is_unused, checks.schema_is_ready)

    def is_done(self, site: Site) -> bool | Done:
        if not state.on_own_database(site):
            return False
        said = state.running_on_database(site)
        return Done("enabled, and so says the registry") if all(said.values()) else False

    def manual(self, site: Site) -> str | None:
        return by_hand.instruction(site, lambda package: self._blocks(site), "registry")

    def plan(self, site: Site) -> Plan:
        note = "reconfigure makes the tables" if checks.works_elsewhere(site) else ""
        return Plan(state.file_changes(site, self._blocks(site), "registry"), duration="1 to 5 min", note=note)

    def apply(self, site: Site) -> None:
        if not site.keep.load(checks.USED):
            site.keep.save(checks.USED, {"at": state.stamp(), "from": self._before(site)})

        def differences(package: Omnibus) -> list[str]:
            config = package.registry_config()
            wrong = config is None or not state.is_ours(config, site) or config.mode != "database"
            return registry_down(package) + (["config.yml does not enable the site's database"] if wrong else [])

        site.change_gitlab_rb(self.name, self._blocks(site), differences, "registry")

    def verify(self, site: Site) -> list[Finding]:
        said = sorted({"database" if on else "legacy" for on in state.running_on_database(site).values()})
        files = state.lockfiles(site)
        applied = state.applied_schema(site)
        return [
            expect(" and ".join(said), "database", remedy="`gitlab-ctl restart registry`, and see its log"),
            # releases that do not enforce lock files write none (registry 0 fact 6)
            failed(f"lock files: {files}", "no filesystem-in-use", remedy="see the registry's log")
            if files.filesystem
            else passed(f"lock files: {files}", "no filesystem-in-use"),
            passed(f"{applied['pre']} and {applied['post']} migrations", "applied")
            if applied["pre"]
            else failed("no migration", "applied", remedy="is another database in use?"),
            nothing_hidden(site),
        ]

    def break_glass(self, site: Site) -> ByHand:
        return by_hand.enable_database(site, database_block(site, enabled=True, password=by_hand.TYPED))

    def undo(self, site: Site) -> None:
        """Only before the first push: what was pushed is in this database alone (derived)."""
        if any(site.metadata_db.counts(("repositories", "tags")).values()):
            raise StepFailed("images were pushed into the database: there is no way back", site=site.name)
        back_to_default = (site.keep.load(checks.USED) or {}).get("from") == "default"
        if not back_to_default:
            _remove_lockfile(site)
        block = None if back_to_default else database_block(site, enabled=False)
        site.change_gitlab_rb(f"{self.name}-undo", {state.DATABASE: block}, registry_down, "registry")
        site.keep.remove(checks.USED)

    def state_after_failure(self, site: Site) -> str:
        return standing.describe_all(site)

    @staticmethod
    def _blocks(site: Site) -> dict[str, str | None]:
        return {state.DATABASE: database_block(site, enabled=True)}

    @staticmethod
    def _before(site: Site) -> str:
        return "default" if checks.works_elsewhere(site) else "storage"


def nothing_hidden(site: Site) -> Finding:
    """An image that was pushed into the storage in the last moment would be hidden now."""
    stored = checks.stored_images(site)
    return expect(
        f"in the storage: {', '.join(stored[:3])}" if stored else "nothing in the storage alone",
        "nothing in the storage alone",
        remedy="undo enable-database; then this registry is migrated (scenario migrate-legacy)",
    )


def _remove_lockfile(site: Site) -> None:
    """A legacy registry refuses to start beside it (procedures 3.3)."""
    config = site.omnibus.registry_config()
    if config is not None and config.root_directory:
        site.omnibus.node.remove_file(f"{config.root_directory}/{LOCKFILES}/database-in-use")

"""Before the read-only window: the backup, the connection, the tables, and an empty database. Source: procedures
2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from georeg_nb import gitlab_rb
from georeg_nb.errors import CommandFailed, StepFailed
from georeg_nb.omnibus import ImportLog, Omnibus
from georeg_nb.procedures import state
from georeg_nb.procedures.hold_sync import by_hand
from georeg_nb.procedures.import_metadata import by_hand as in_shell
from georeg_nb.procedures.import_metadata import checks, window
from georeg_nb.procedures.import_metadata.blocks import database_block
from georeg_nb.procedures.import_metadata.window import ImportStep
from georeg_nb.runbook import Change, Check, Done, Finding, Plan, failed, passed
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site

MIGRATE = ("gitlab-ctl", "registry-database", "migrate", "up")
# up to 17.9 the wrapper asks whether it may stop a running registry; at end of input it dies (procedures 3.2)
MAY_STOP = "y\n"
START_REGISTRY = ("gitlab-ctl", "start", "registry")
BACKUP_IS_FRESH = timedelta(days=7)


class Backup(ImportStep):
    """The storage and the configuration can be brought back. Done by hand: georeg does not know the site's backup
    tool.
    """

    name = "backup"
    title = "Take a backup of the registry's storage and of the configuration"
    source = "procedures 2.6 Prerequisites"

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site):
            return Done(checks.MOVED)
        kept = site.keep.load("attested-backup")
        if kept and _age(kept) < BACKUP_IS_FRESH:
            return Done(f"attested by {kept.get('who')} on {kept.get('when')}: {kept.get('text')}")
        return False

    def manual(self, site: Site) -> str | None:
        config = site.omnibus.registry_config()
        place = (config.root_directory if config else None) or "the registry's bucket"
        return (
            f"Take a backup or a snapshot of {place}, of {gitlab_rb.PATH} and of /etc/gitlab/gitlab-secrets.json, "
            f"and see "
            "that it can be read. Attest what it is and where it lies. After the import it is the only way back "
            "once images "
            "were pushed."
        )

    def break_glass(self, site: Site) -> str:
        return in_shell.backup(site)

    def verify(self, site: Site) -> Finding:
        kept = site.keep.load("attested-backup") or {}
        return passed(f"attested by {kept.get('who')}: {kept.get('text')}", "attested")


def _age(kept: dict[str, Any]) -> timedelta:
    try:
        when = datetime.fromisoformat(str(kept.get("when")))
    except ValueError:
        return timedelta.max
    return datetime.now(UTC) - (when if when.tzinfo else when.replace(tzinfo=UTC))


class ConnectDatabase(ImportStep):
    """The registry's tools know the connection; the registry itself goes on without it. Source: procedures 2.6, 4.2."""

    name = "connect-database"
    title = "Configure the connection to the site's own database, not enabled yet"
    interrupts = "the registry restarts (seconds)"
    evidence = "run"
    source = "procedures 2.3 step 2, 2.6, 4.2"
    needs: ClassVar[Sequence[Check]] = (checks.registry_is_legacy,)

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site):
            return Done(checks.MOVED)
        return Done("config.yml names the site's own database") if state.is_connected(site) else False

    def manual(self, site: Site) -> str | None:
        return by_hand(site, self._blocks(site), "registry")

    def plan(self, site: Site) -> Plan:
        return Plan(state.file_changes(site, self._blocks(site), "registry"), duration="1 to 5 min")

    def apply(self, site: Site) -> None:
        def differences(package: Omnibus) -> list[str]:
            config = package.registry_config()
            wrong = config is None or not state.is_ours(config, site) or config.mode != "legacy"
            return window.registry_down(package) + (
                ["config.yml does not name the database, not enabled"] if wrong else []
            )

        site.change_gitlab_rb(self.name, self._blocks(site), differences, "registry")

    def verify(self, site: Site) -> Finding:
        found = [config for _, config in state.registry_configs(site)]
        shown = "; ".join(f"{config.mode}, {':'.join(map(str, config.database_address))}" for config in found if config)
        if state.is_connected(site) and state.is_legacy(site):
            return passed(shown, f"legacy, {site.metadata_db.address}")
        return failed(shown, f"legacy, {site.metadata_db.address}", remedy="is another block of gitlab.rb in the way?")

    def break_glass(self, site: Site) -> ByHand:
        return in_shell.connect_database(site, database_block(site, enabled=False, password=in_shell.TYPED))

    def undo(self, site: Site) -> None:
        if state.on_own_database(site):
            raise StepFailed("the registry works on this database", site=site.name)
        if checks.import_runs(site):
            raise StepFailed("an import is running", site=site.name)
        site.change_gitlab_rb(f"{self.name}-undo", {state.DATABASE: None}, window.registry_down, "registry")

    @staticmethod
    def _blocks(site: Site) -> dict[str, str | None]:
        return {state.DATABASE: database_block(site, enabled=False)}


class MigrateSchema(ImportStep):
    """The registry's tables are made; with the database not enabled, reconfigure does not do it. Source: procedures
    2.6.
    """

    name = "migrate-schema"
    title = "Create the registry's tables in the database"
    evidence = "run"
    source = "procedures 2.3 step 5, registry 1.2, 4.3"

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site):
            return Done(checks.MOVED)
        finding = checks.schema_is_current(site)
        return Done(f"current: {finding.found}") if finding.verdict == "passed" else False

    def plan(self, site: Site) -> Plan:
        stops = site.profile.supports("migrate-asks-to-stop")
        note = "this release stops the registry meanwhile: pulls and pushes fail" if stops else ""
        change = Change("command", site.registry_nodes[0].name, after=_in_words(site))
        return Plan([change], duration="5 to 60 s", note=note)

    def apply(self, site: Site) -> None:
        package, job = site.omnibus, f"{site.name}-{self.name}"
        if site.profile.supports("migrate-asks-to-stop"):
            try:
                _registry_database(site, job, MIGRATE, stdin=MAY_STOP)
            except (CommandFailed, StepFailed):
                package.run_job(f"{job}-start", START_REGISTRY)  # the wrapper starts it again only when all went well
                raise
        else:
            _registry_database(site, job, MIGRATE)
        # `migrate status` counts only half of them; the plan of a second run is the one sure answer (registry 0 fact 4)
        left = _registry_database(site, f"{site.name}-{self.name}-check", (*MIGRATE, "--dry-run"))
        planned = [line for line in left.splitlines() if line.strip() and line.strip()[:14].isdigit()]
        if planned:
            raise StepFailed(f"{len(planned)} migrations are still to be applied, e.g. {planned[0]}", site=site.name)
        site.keep.save("schema", {"registry": package.registry_version(), **state.applied_schema(site)})

    def verify(self, site: Site) -> Finding:
        return checks.schema_is_current(site)

    def break_glass(self, site: Site) -> ByHand:
        return in_shell.migrate_schema(site, (_in_words(site),))


def _in_words(site: Site) -> str:
    asks = site.profile.supports("migrate-asks-to-stop")
    return f"{'echo y | ' if asks else ''}{' '.join(MIGRATE)}"


def _registry_database(site: Site, job: str, argv: tuple[str, ...], *, stdin: str | None = None) -> str:
    """Run a registry-database command to its end. Raises StepFailed also where the wrapper did nothing with status
    0.
    """
    log = ImportLog()
    ended = site.omnibus.run_job(job, argv, on_output=log.feed, stdin=stdin)
    log.close()
    output = ended.output().decode(errors="replace")
    if log.not_enabled:
        raise StepFailed(
            f"`{' '.join(argv)}` did nothing: the registry is not enabled on this node",
            remedy="see the check 'the registry is enabled and running'",
            site=site.name,
        )
    if log.fatal:
        raise CommandFailed(argv, ended.status or 0, output, log.fatal, node=site.omnibus.node.name)
    ended.check()
    return output


class ClearHalfImport(ImportStep):
    """Empty the tags of an import that was killed in the middle: it cannot be continued, only run again. Source:
    2.6.
    """

    name = "clear-half-import"
    title = "Empty the tags of a half-finished import"
    reversible = False
    evidence = "run"
    source = "procedures 2.6 After a failure, registry 0 fact 2, 6.5"
    needs = (checks.half_import_is_ours, checks.nobody_else_connected)

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site):
            return Done(checks.MOVED)
        if checks.import_runs(site):
            return Done("an import is running")
        if site.metadata_db.count("tags") == 0:
            return Done("there are no tags in the database")
        return Done("the import in the database is complete") if state.imported(site) else False

    def plan(self, site: Site) -> Plan:
        count = site.metadata_db.count("tags")
        refused = "; pushes are REFUSED meanwhile" if state.read_only_nodes(site) else ""
        return Plan(
            [
                Change(
                    "sql",
                    site.metadata_db.address,
                    before=f"{count} tags",
                    after="TRUNCATE TABLE tags RESTART IDENTITY CASCADE",
                )
            ],
            note=f"the tags are all in the storage still: the database was never enabled{refused}",
        )

    def apply(self, site: Site) -> None:
        site.metadata_db.truncate_tags()

    def break_glass(self, site: Site) -> ByHand:
        return in_shell.clear_half_import(site)

    def verify(self, site: Site) -> Finding:
        count = site.metadata_db.count("tags")
        return passed("0 tags", "0 tags") if count == 0 else failed(f"{count} tags", "0 tags")

"""The steps of a one-step import, except the window's own. Source: procedures 2.6."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from georeg_nb import gitlab_rb
from georeg_nb.errors import CommandFailed, CommandTimeout, GeoregError, JobLost, StepFailed
from georeg_nb.omnibus import ImportLog, Omnibus
from georeg_nb.procedures import hold_sync, state
from georeg_nb.procedures.forecast import read_tags
from georeg_nb.procedures.hold_sync import by_hand
from georeg_nb.procedures.import_metadata import checks, window
from georeg_nb.procedures.import_metadata.window import ImportStep
from georeg_nb.runbook import Change, Done, Finding, Plan, failed, passed
from georeg_nb.site import Site

MIGRATE = ("gitlab-ctl", "registry-database", "migrate", "up")
IMPORT = ("gitlab-ctl", "registry-database", "import", "--log-to-stdout", "--row-count")
IMPORT_LIMIT = 7 * 24 * 3600.0  # seconds; what is too long was decided before the window was opened
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

    def verify(self, site: Site) -> Finding:
        kept = site.keep.load("attested-backup") or {}
        return passed(f"attested by {kept.get('who')}: {kept.get('text')}", "attested")


def _age(kept: dict[str, Any]) -> timedelta:
    try:
        when = datetime.fromisoformat(str(kept.get("when")))
    except ValueError:
        return timedelta.max
    return datetime.now(UTC) - (when if when.tzinfo else when.replace(tzinfo=UTC))


def database_block(site: Site, *, enabled: bool) -> str:
    """The whole hash of the site's external database, and no second copy of it in the bundled server (procedures
    2.3).
    """
    database = site.parameters.database
    return (
        gitlab_rb.external_database(
            enabled=enabled,
            host=database.host,
            port=database.port,
            user=database.user,
            password=database.password.resolve().reveal(),
            dbname=database.name,
            sslmode=database.sslmode,
            sslrootcert=database.node_sslrootcert,
        )
        + "\n"
        + gitlab_rb.assignment("postgresql", ["registry", "auto_create"], False)
    )


class ConnectDatabase(ImportStep):
    """The registry's tools know the connection; the registry itself goes on without it. Source: procedures 2.6, 4.2."""

    name = "connect-database"
    title = "Configure the connection to the site's own database, not enabled yet"
    interrupts = "the registry restarts (seconds)"
    evidence = "run"
    source = "procedures 2.3 step 2, 2.6, 4.2"
    needs = (checks.registry_is_legacy,)

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
        return Plan([Change("command", site.registry_nodes[0].name, after=" ".join(MIGRATE))], duration="5 to 60 s")

    def apply(self, site: Site) -> None:
        package = site.omnibus
        _registry_database(site, f"{site.name}-{self.name}", MIGRATE)
        # `migrate status` counts only half of them; the plan of a second run is the one sure answer (registry 0 fact 4)
        left = _registry_database(site, f"{site.name}-{self.name}-check", (*MIGRATE, "--dry-run"))
        planned = [line for line in left.splitlines() if line.strip() and line.strip()[:14].isdigit()]
        if planned:
            raise StepFailed(f"{len(planned)} migrations are still to be applied, e.g. {planned[0]}", site=site.name)
        site.keep.save("schema", {"registry": package.registry_version(), **state.applied_schema(site)})

    def verify(self, site: Site) -> Finding:
        return checks.schema_is_current(site)


def _registry_database(site: Site, job: str, argv: tuple[str, ...]) -> str:
    """Run a registry-database command to its end. Raises StepFailed also where the wrapper did nothing with status
    0.
    """
    log = ImportLog()
    ended = site.omnibus.run_job(job, argv, on_output=log.feed)
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

    def verify(self, site: Site) -> Finding:
        count = site.metadata_db.count("tags")
        return passed("0 tags", "0 tags") if count == 0 else failed(f"{count} tags", "0 tags")


class TakeSnapshot(ImportStep):
    """All tags and digests, read while nothing can change: what the database is compared with. Source: procedures 2.6
    Proof.
    """

    name = "snapshot"
    title = "Keep a snapshot of all tags and digests"
    evidence = "run"
    source = "procedures 2.6 Proof"

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site):
            return Done(checks.MOVED)
        kept = state.valid_snapshot(site)
        return Done(f"{len(kept.tags)} tags, taken {kept.taken}") if kept else False

    def plan(self, site: Site) -> Plan:
        return Plan(
            [Change("record", site.keep.path("snapshot"), after="repository, tag and digest of everything, over HTTP")],
            duration="some seconds per thousand tags",
        )

    def apply(self, site: Site) -> None:
        try:
            opened = state.open_window(site)
            if opened is None:
                raise StepFailed("pushes are not refused", remedy="apply this section again", site=site.name)
            tags = read_tags(site.registry, site.progress)
            site.keep.save("snapshot", state.Snapshot(opened.opened, state.stamp(), tags).data())
        except GeoregError as error:
            raise window.gave_up(site, error) from error

    def verify(self, site: Site) -> Finding:
        kept = state.valid_snapshot(site)
        if kept is None:
            return failed("no snapshot of this window", "a snapshot")
        rows = [{"repository": p, "tag": t, "digest": d} for (p, t), d in sorted(kept.tags.items())]
        return passed(
            f"{len(kept.tags)} tags in {len({p for p, _ in kept.tags})} repositories", "a snapshot", rows=rows
        )


class Import(ImportStep):
    """All metadata from the storage into the database, in one run. Source: procedures 2.6, registry 1.5, 1.6, 6."""

    name = "import"
    title = "Import the metadata (one-step)"
    evidence = "run"
    source = "procedures 2.6 One-step"
    needs = (checks.image_sync_is_held, checks.schema_is_current)

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site):
            return Done(checks.MOVED)
        if checks.import_runs(site):
            return False
        return Done("the database holds the tags of the snapshot") if state.imported(site) else False

    def plan(self, site: Site) -> Plan:
        running = "; it is running: this follows it" if checks.import_runs(site) else ""
        kept = state.window(site)
        predicted = str(checks.prediction(site)) if not state.open_window(site) else ""
        return Plan(
            [Change("command", site.registry_nodes[0].name, after=" ".join(IMPORT))],
            duration=predicted or (f"pushes have been refused since {kept.opened}" if kept else ""),
            note=f"goes on by itself when this notebook is closed{running}",
        )

    def apply(self, site: Site) -> None:
        try:
            self._import(site)
        except CommandTimeout:
            raise  # it goes on by itself
        except GeoregError as error:
            raise window.gave_up(site, error) from error
        hold_sync.observe_everywhere(site.sites, f"import on {site.name}")

    def _import(self, site: Site) -> None:
        kept = state.valid_snapshot(site)
        if not checks.import_runs(site):
            self._may_start(site)
        log = ImportLog(total_tags=len(kept.tags) if kept else 0)

        def follow(text: str) -> None:
            log.feed(text)
            site.progress(str(log), log.fraction)

        job = site.omnibus.run_job(checks.import_job(site), IMPORT, limit=IMPORT_LIMIT, on_output=follow)
        log.close()
        _keep_report(site, log, job.status)
        if job.state == "lost":
            job.check()
        if log.not_enabled:
            raise StepFailed("the import did nothing: the registry is not enabled on this node", site=site.name)
        if job.status != 0 or log.fatal:
            raise StepFailed(
                f"the import ended with status {job.status}: {log.fatal or 'see its output'}",
                remedy="mend the cause; what is in the database is removed by step clear-half-import; then run this "
                "again",
                site=site.name,
            )
        if kept is None:
            raise StepFailed("there is no snapshot of this window to compare the import with", site=site.name)
        _must_equal(site, kept)

    @staticmethod
    def _may_start(site: Site) -> None:
        """Read again in the window itself: from here on every guard that the importer lacks is ours (registry 0)."""
        problems = []
        refused = window.refused_everywhere(site)
        if refused.failed:
            problems.append(refused.found)
        if state.valid_snapshot(site) is None:
            problems.append("there is no snapshot of this window")
        for question in (checks.registry_is_legacy, checks.tags_table_is_empty, checks.nobody_else_connected):
            finding = question(site)
            if finding.verdict != "passed":
                problems.append(f"{question.title}: {finding.found}")
        if problems:
            raise StepFailed("the import was not started: " + "; ".join(problems), site=site.name)

    def verify(self, site: Site) -> Finding:
        kept, last = state.valid_snapshot(site), state.last_import(site)
        report = site.keep.load("import-report") or {}
        rows = [{"tag": name, "cause": cause} for name, cause in sorted((report.get("lost") or {}).items())]
        counts = report.get("counts") or {}
        found = ", ".join(f"{number} {name}" for name, number in counts.items()) or "no counts in the log"
        if kept is None or last is None:
            return failed(found, "a complete import", rows=rows)
        if last.errors or not last.complete:
            return failed(last.errors or "the last step did not end", "a complete import", rows=rows)
        return passed(found, "a complete import", rows=rows)


def _keep_report(site: Site, log: ImportLog, status: int | None) -> None:
    """What the import said, and how long it took, by its own job's clock."""
    seconds = (datetime.now(UTC) - started).total_seconds() if (started := _started(site)) else 0.0
    report = {
        "status": status,
        "seconds": round(seconds, 1),
        "lost": log.lost,
        "warnings": log.warnings[:1000],
        "counts": log.counts,
        "fatal": log.fatal,
    }
    site.keep.save("import-report", json.loads(json.dumps(report)))
    opened = state.window(site)
    if opened:
        values = {**opened.__dict__, "import_seconds": round(seconds, 1), "tags": (log.counts or {}).get("tags", 0)}
        state.save_window(site, state.Window(**values))


def _started(site: Site) -> datetime | None:
    job = site.omnibus.node.job(checks.import_job(site))
    return job.started_at if job else None


def _must_equal(site: Site, kept: state.Snapshot) -> None:
    compared = state.compare(site, kept.tags, site.metadata_db.all_tags())
    if compared.equal:
        return
    report = site.keep.load("import-report") or {}
    causes = report.get("lost") or {}
    names = [
        f"{d.repository}:{d.tag} ({d.kind}; {causes.get(f'{d.repository}:{d.tag}', 'no cause in the log')})"
        for d in compared.staying
    ]
    site.keep.save("import-differences", [one.row() for one in compared.staying])
    raise StepFailed(
        f"the database differs from the snapshot in {len(names)} tags: {', '.join(names[:5])}"
        + (" …" if len(names) > 5 else ""),
        remedy="mend these images, or name them in accept_losses; then run this again",
        site=site.name,
    )


class Compare(ImportStep):
    """The proof: nothing vanished, nothing changed, except what was agreed to. Source: procedures 2.6 Proof."""

    name = "compare"
    title = "Prove that the database equals the snapshot"
    evidence = "run"
    source = "procedures 2.6 Proof"

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site):
            return Done(checks.MOVED)
        proved = state.proof(site)
        if proved and state.open_window(site) and state.imported(site):
            return Done(f"proved {proved['at']}")
        return False

    def plan(self, site: Site) -> Plan:
        return Plan(
            [
                Change(
                    "record", site.keep.path("proof"), after="database equals snapshot, tag by tag and digest by digest"
                )
            ]
        )

    def apply(self, site: Site) -> None:
        try:
            kept = state.valid_snapshot(site)
            if kept is None:
                raise StepFailed("there is no snapshot of this window", site=site.name)
            _must_equal(site, kept)
            accepted = sorted(state.accepted_losses(site))
            proof = {"window": kept.window, "at": state.stamp(), "tags": len(kept.tags), "accepted": accepted}
            site.keep.save("proof", proof)
        except GeoregError as error:
            raise window.gave_up(site, error) from error

    def verify(self, site: Site) -> Finding:
        kept = state.valid_snapshot(site)
        if kept is None or state.proof(site) is None:
            return failed("no proof is kept", "a proof")
        compared = state.compare(site, kept.tags, site.metadata_db.all_tags())
        before, now = compared.tags
        rows = compared.rows()
        found = f"{now} of {before} tags" + ("" if now == before else ", the others were agreed to be lost")
        return (
            passed(found, hold_sync.EQUAL, rows=rows) if compared.equal else failed(found, hold_sync.EQUAL, rows=rows)
        )


class EnableDatabase(ImportStep):
    """The registry works on its database, and pushes are accepted again: one reconfigure. Source: procedures 2.6 step
    5.
    """

    name = "enable-database"
    title = "Switch the registry to its database and let pushes in"
    interrupts = "the registry restarts (seconds); then pushes are accepted again"
    evidence = "run"
    source = "procedures 2.6, 4.3, registry 0 facts 7, 13"

    def is_done(self, site: Site) -> bool | Done:
        if not state.on_own_database(site) or state.read_only_nodes(site):
            return False
        return Done("enabled, and so says the registry") if site.registry.identity().database else False

    def manual(self, site: Site) -> str | None:
        return by_hand(site, self._blocks(site), "registry")

    def plan(self, site: Site) -> Plan:
        return Plan(
            state.file_changes(site, self._blocks(site), "registry"),
            duration="1 to 5 min",
            note="with the first push after this the quick way back is closed; a day later online garbage "
            "collection begins "
            "to remove manifests from the storage, and then only the backup leads back",
        )

    def apply(self, site: Site) -> None:
        if not state.on_own_database(site):
            proved = state.proof(site)
            if proved is None or not state.imported(site):
                raise window.gave_up(site, StepFailed("the import is not proved", site=site.name))
            site.keep.save("enabled", {"at": state.stamp(), "window": proved["window"]})
        try:
            site.change_gitlab_rb(self.name, self._blocks(site), self._differences(site), "registry")
        except (CommandTimeout, JobLost):
            raise
        except GeoregError as error:
            raise self._fell_back(site, error) from error
        opened = state.window(site)
        if opened and not opened.closed:
            values = {**opened.__dict__, "closed": state.stamp(), "outcome": "migrated"}
            state.save_window(site, state.Window(**values))

    @staticmethod
    def _differences(site: Site) -> Any:
        def differences(package: Omnibus) -> list[str]:
            config = package.registry_config()
            wrong = window.shows_writable(package)
            if config is None or config.mode != "database" or not state.is_ours(config, site):
                wrong.append("config.yml does not enable the database")
            elif not wrong and not site.registry_at(package.node).identity().database:
                wrong.append("the registry does not say that it works on its database")
            return wrong

        return differences

    @staticmethod
    def _fell_back(site: Site, error: GeoregError) -> StepFailed:
        """gitlab.rb was put back: legacy. Say so if anything was pushed into the database in the meantime."""
        if state.on_own_database(site):  # it could not be put back, so nothing else may be touched
            return StepFailed(error.message, remedy=error.remedy, site=site.name)
        kept = site.keep.load("enabled") or {}
        pushed: set[tuple[str, str]] = set()
        if kept.get("at"):
            pushed = state.tags_changed_since(site, datetime.fromisoformat(kept["at"]))
        site.keep.remove("enabled")
        if pushed:
            names = ", ".join(sorted(":".join(key) for key in pushed)[:5])
            error.message += f"\n  {len(pushed)} tags were pushed in the meantime and are only in the database: {names}"
        return window.gave_up(site, error)

    def verify(self, site: Site) -> list[Finding]:
        enabled = [site.registry_at(node).identity().database for node in site.registry_nodes]
        found = "; ".join("database" if value else "legacy" for value in enabled)
        header = passed(found, "database") if all(enabled) else failed(found, "database", remedy="restart the registry")
        files = state.lockfiles(site)
        if files.filesystem:
            lock = failed(str(files), "no filesystem-in-use", remedy="remove it: an enforcing registry would not start")
        else:
            lock = passed(str(files), "database-in-use, or not known")
        return [header, lock]

    def undo(self, site: Site) -> None:
        back_to_legacy(site)

    @staticmethod
    def _blocks(site: Site) -> dict[str, str | None]:
        return {state.DATABASE: database_block(site, enabled=True), state.READ_ONLY: None}


def back_to_legacy(site: Site) -> None:
    """The quick way back, while nothing was pushed: refuse pushes, look again, then legacy as before. Source: 2.6.

    Raises StepFailed, with pushes let in again, when it is closed: images pushed since exist only in the database.
    """
    kept, enabled = state.snapshot(site), site.keep.load("enabled")
    if kept is None or not enabled:
        raise StepFailed("nothing is known of the move on this site", remedy="restore the backup", site=site.name)
    if datetime.now(UTC) - datetime.fromisoformat(enabled["at"]) > timedelta(hours=20):
        raise StepFailed(
            "the way back is closed: online garbage collection may have begun to remove manifests from the storage",
            remedy="restore the backup of before the import",
            site=site.name,
        )
    _nothing_pushed(site, kept)
    config = site.omnibus.registry_config()
    assert config is not None
    read_only = gitlab_rb.read_only(config.storage)
    site.change_gitlab_rb("back-1", {state.READ_ONLY: read_only}, window.shows_read_only, "registry")
    try:
        _nothing_pushed(site, kept)
    except StepFailed:
        site.change_gitlab_rb("back-0", {state.READ_ONLY: None}, window.shows_writable, "registry")
        raise
    window.restore_lockfiles(site, state.window(site))
    blocks = {state.DATABASE: database_block(site, enabled=False), state.READ_ONLY: None}
    site.change_gitlab_rb("back-2", blocks, window.shows_writable, "registry")
    site.keep.remove("enabled")


def _nothing_pushed(site: Site, kept: state.Snapshot) -> None:
    compared = state.compare(site, kept.tags, site.metadata_db.all_tags())
    if not compared.equal:
        names = ", ".join(f"{one.repository}:{one.tag}" for one in compared.staying[:5])
        raise StepFailed(
            f"the way back is closed: {len(compared.staying)} tags were changed since the import, e.g. {names}",
            remedy="these exist only in the database; restore the backup if they may be lost",
            site=site.name,
        )


class Writable(ImportStep):
    """Proof that pushes are accepted again, on every registry node, and how long they were refused."""

    name = "writable"
    title = "Prove that pushes are accepted again"
    evidence = "run"
    source = "procedures 4.3"

    def is_done(self, site: Site) -> bool | Done:
        last, kept = state.window(site), site.keep.load("writable")
        if not state.on_own_database(site) or state.read_only_nodes(site):
            return False
        if last is None:
            return Done("moved earlier")
        if kept and kept.get("window") == last.opened:
            return Done(f"proved {kept['at']}; pushes were refused for {kept['seconds']:.0f} s")
        return False

    def plan(self, site: Site) -> Plan:
        nodes = ", ".join(node.name for node in site.registry_nodes)
        return Plan([Change("api", nodes, after="an upload is started and cancelled")])

    def apply(self, site: Site) -> None:
        proof = window.accepted_everywhere(site)
        if proof.failed:
            raise StepFailed(proof.found, remedy=proof.remedy, site=site.name)
        last = state.window(site)
        if last is not None:
            kept = {"window": last.opened, "at": state.stamp(), "seconds": last.seconds}
            site.keep.save("writable", kept)

    def verify(self, site: Site) -> Finding:
        return window.accepted_everywhere(site)

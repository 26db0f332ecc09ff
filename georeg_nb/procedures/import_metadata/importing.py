"""In the read-only window: snapshot, import, and the proof that they agree. Source: procedures 2.6, registry 0, 1.6,
6.
"""

from __future__ import annotations

from dataclasses import replace

from georeg_nb.errors import CommandTimeout, GeoregError, StepFailed
from georeg_nb.procedures import directions, hold_sync, state
from georeg_nb.procedures.forecast import read_tags
from georeg_nb.procedures.import_metadata import by_hand as in_shell
from georeg_nb.procedures.import_metadata import checks, import_job, method, window
from georeg_nb.procedures.import_metadata.window import ImportStep
from georeg_nb.procedures.imports_by_log import job_name
from georeg_nb.runbook import Change, Done, Finding, Plan, failed, passed
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site


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
        if kept is None or checks.import_died(site):
            return False
        return Done(f"{len(kept.tags)} tags, taken {kept.taken}")

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

    def break_glass(self, site: Site) -> ByHand:
        return in_shell.snapshot(site)

    def verify(self, site: Site) -> Finding:
        kept = state.valid_snapshot(site)
        if kept is None:
            return failed("no snapshot of this window", "a snapshot")
        rows = [{"repository": p, "tag": t, "digest": d} for (p, t), d in sorted(kept.tags.items())]
        return passed(
            f"{len(kept.tags)} tags in {len({p for p, _ in kept.tags})} repositories", "a snapshot", rows=rows
        )


class Import(ImportStep):
    """All metadata from the storage into the database in one run, or, after step one, the tags alone (step two).
    Source: procedures 2.6, registry 1.5, 1.6, 6.
    """

    name = "import"
    title = "Import the metadata while pushes are refused"
    evidence = "run"
    source = "procedures 2.6 One-step, Three-step"

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site):
            return Done(checks.MOVED)
        if checks.import_runs(site):
            return False
        return Done("the database holds the tags of the snapshot") if state.imported(site) else False

    def plan(self, site: Site) -> Plan:
        running = "; it is running: this follows it" if checks.import_runs(site) else ""
        kept = state.window(site)
        return Plan(
            [Change("command", site.registry_nodes[0].name, after=" ".join(self._command(site)))],
            duration=window.predicted(site) or (f"pushes have been refused since {kept.opened}" if kept else ""),
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

    @staticmethod
    def _command(site: Site) -> tuple[str, ...]:
        return import_job.STEP_TWO if method.is_three_step(site) else import_job.IMPORT

    def _import(self, site: Site) -> None:
        kept = state.valid_snapshot(site)
        if not checks.import_runs(site):
            self._may_start(site)
        tags = len(kept.tags) if kept else 0
        job, log, seconds = import_job.run(site, self._command(site), tags, "import-report")
        opened = state.window(site)
        if opened:
            counted = (log.counts or {}).get("tags", 0)
            state.save_window(site, replace(opened, import_seconds=round(seconds, 1), tags=counted))
        import_job.must_have_ended_well(
            site,
            job,
            log,
            "mend the cause; what is in the database is removed by step clear-half-import; then run this again",
        )
        if kept is None:
            raise StepFailed("there is no snapshot of this window to compare the import with", site=site.name)
        _must_equal(site, kept)

    @staticmethod
    def _may_start(site: Site) -> None:
        """Read again in the window itself: every guard that the importer lacks is ours (registry 0).

        Not as `needs`: what does not hold here must also let pushes in again.
        """
        problems = []
        refused = window.refused_everywhere(site)
        if refused.failed:
            problems.append(refused.found)
        if state.valid_snapshot(site) is None:
            problems.append("there is no snapshot of this window")
        last = state.last_import(site, "pre_import")
        if method.is_three_step(site) and (last is None or not last.complete):
            problems.append("there is no complete step one")
        problems += import_job.not_now(
            site,
            checks.registry_is_legacy,
            checks.image_sync_is_held,
            checks.schema_is_current,
            checks.tags_table_is_empty,
            checks.never_in_use,
            checks.nobody_else_connected,
        )
        import_job.may_start(site, problems)

    def break_glass(self, site: Site) -> ByHand:
        command = import_job.STEP_TWO if method.known(site) == method.THREE_STEP else import_job.IMPORT
        return in_shell.importing(site, command, job_name(site))

    def verify(self, site: Site) -> Finding:
        kept, last = state.valid_snapshot(site), state.last_import(site, "tag_import")
        report = site.keep.load("import-report") or {}
        rows = [{"tag": name, "cause": cause} for name, cause in sorted((report.get("lost") or {}).items())]
        counts = report.get("counts") or {}
        found = ", ".join(f"{number} {name}" for name, number in counts.items()) or "no counts in the log"
        if kept is None or last is None:
            return failed(found, "a complete import", rows=rows)
        if not last.complete:
            return failed(last.errors or "the last step did not end", "a complete import", rows=rows)
        return passed(found, "a complete import", rows=rows)


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

    def break_glass(self, site: Site) -> ByHand:
        return in_shell.compare(site)

    def verify(self, site: Site) -> Finding:
        kept = state.valid_snapshot(site)
        if kept is None or state.proof(site) is None:
            return failed("no proof is kept", "a proof")
        compared = state.compare(site, kept.tags, site.metadata_db.all_tags())
        before, now = compared.tags
        rows = compared.rows()
        found = f"{now} of {before} tags" + ("" if now == before else ", the others were agreed to be lost")
        return (
            passed(found, directions.EQUAL, rows=rows) if compared.equal else failed(found, directions.EQUAL, rows=rows)
        )

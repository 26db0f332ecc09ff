"""Step three of the three-step import: every blob of the storage, in normal operation. Source: procedures 2.6,
registry 6.1, 7.
"""

from __future__ import annotations

from georeg_nb.procedures import state
from georeg_nb.procedures.import_metadata import by_hand as in_shell
from georeg_nb.procedures.import_metadata import checks, import_job, method
from georeg_nb.procedures.import_metadata.window import ImportStep
from georeg_nb.runbook import Change, Done, Finding, Plan, failed, passed
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site


class ImportBlobs(ImportStep):
    """Without it, layers that no image uses stay invisible to online garbage collection for ever."""

    name = "import-blobs"
    title = "Make every blob in the storage known to the database (step three)"
    evidence = "run"
    source = "procedures 2.6 Three-step, registry 1.5, 6.5, 7"
    needs = (checks.registry_works_on_its_database,)

    def skip(self, site: Site) -> str | None:
        return None if state.on_own_database(site) else method.not_three_step(site)

    def is_done(self, site: Site) -> bool | Done:
        if not state.on_own_database(site) or checks.import_runs(site):
            return False
        if state.last_import(site, "tag_import") is None:
            return Done("nothing was imported here")
        known = state.blobs_are_known(site)
        return Done(f"every blob is known since {known.finished:%Y-%m-%d %H:%M} UTC") if known else False

    def plan(self, site: Site) -> Plan:
        running = "; it is running: this follows it" if checks.import_runs(site) else ""
        return Plan(
            [Change("command", site.registry_nodes[0].name, after=" ".join(import_job.STEP_THREE))],
            duration="up to hours for millions of blobs, while the registry works",
            note="one day after it online garbage collection begins to remove what no image uses, also the files of "
            f"manifests that only legacy metadata need; it goes on by itself when this notebook is closed{running}",
        )

    def apply(self, site: Site) -> None:
        if not checks.import_runs(site):
            import_job.may_start(site, import_job.not_now(site, *self.needs))
        job, log, _ = import_job.run(site, import_job.STEP_THREE, 0, "import-blobs-report")
        import_job.must_have_ended_well(
            site, job, log, "the registry works meanwhile, and nothing is lost; mend the cause, then run this again"
        )

    def break_glass(self, site: Site) -> ByHand | str:
        if method.known(site) != method.THREE_STEP:
            return "only for an import in three steps; in one step, import does all of it"
        return in_shell.import_blobs(site, import_job.STEP_THREE)

    def verify(self, site: Site) -> Finding:
        counts = (site.keep.load("import-blobs-report") or {}).get("counts") or {}
        if state.blobs_are_known(site) is None:
            return failed("no complete step three after the import of the tags", "a complete step three")
        return passed(f"{counts.get('blobs', '?')} blobs", "a complete step three")

"""Step one of the three-step import: all manifests are read into the database while pushes go on. Source: procedures
2.6, registry 6.5.
"""

from __future__ import annotations

from georeg_nb.errors import StepFailed
from georeg_nb.procedures import state
from georeg_nb.procedures.import_metadata import by_hand as in_shell
from georeg_nb.procedures.import_metadata import checks, import_job, method, prediction
from georeg_nb.procedures.import_metadata.window import ImportStep
from georeg_nb.runbook import Change, Done, Finding, Plan, failed, passed
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site

GAIN = 0.9  # a run of step one that leaves more than this of the predicted window is not worth another one


class PreImport(ImportStep):
    """Run again until step two, with pushes refused, is predicted to be short enough."""

    name = "pre-import"
    title = "Read all manifests into the database while pushes go on (step one)"
    evidence = "run"
    source = "procedures 2.6 Three-step, registry 1.5, 6.5"
    needs = (
        checks.registry_is_legacy,
        checks.schema_is_current,
        checks.tags_table_is_empty,
        checks.never_in_use,
        checks.nobody_else_connected,
        checks.no_unnamed_loss,
    )

    def skip(self, site: Site) -> str | None:
        return None if state.on_own_database(site) else method.not_three_step(site)

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site):
            return Done(checks.MOVED)
        if state.open_window(site):
            return Done("pushes are refused: what is left is for step two")
        if checks.import_runs(site) or prediction.why_step_one_again(site):
            return False
        return Done(f"step two is predicted to take {prediction.step_two(site)[0]}")

    def plan(self, site: Site) -> Plan:
        running = "; it is running: this follows it" if checks.import_runs(site) else ""
        command = " ".join(import_job.STEP_ONE)
        why = "" if running else prediction.why_step_one_again(site)
        return Plan(
            [
                method.change(site),
                Change(
                    "command",
                    site.registry_nodes[0].name,
                    after=f"{command}, again until step two would fit read_only_limit_minutes",
                    binds=command,
                ),
            ],
            duration=f"{prediction.registry(site).size or 0:,} bytes at 2 to 4 TB an hour" if why else "",
            note=f"{why}; pushes go on meanwhile; it goes on by itself when this notebook is closed{running}",
        )

    def apply(self, site: Site) -> None:
        method.keep(site)
        before = float("inf")
        while checks.import_runs(site) or (why := prediction.why_step_one_again(site)):
            self._once(site)
            prediction.look_again(site)
            why, now = prediction.why_step_one_again(site), prediction.step_two(site)[0]
            if why and now.work > GAIN * before:
                raise StepFailed(
                    f"images are pushed as fast as step one reads them: {why}",
                    remedy="run this again at a quiet time, or raise read_only_limit_minutes knowingly",
                    site=site.name,
                )
            before = now.work

    def _once(self, site: Site) -> None:
        again = any(entry.complete for entry in state.ended_imports(site, "pre_import"))
        command = import_job.step_one(site, again=again)
        if not checks.import_runs(site):
            import_job.may_start(site, import_job.not_now(site, *self.needs))
        tags = len(prediction.registry(site).forecast.tags)
        job, log, _ = import_job.run(site, command, tags, "pre-import-report")
        import_job.must_have_ended_well(
            site, job, log, "pushes were never refused; mend the cause, then run this again: it goes on where it was"
        )

    def break_glass(self, site: Site) -> ByHand | str:
        if method.known(site) != method.THREE_STEP:
            return "only for an import in three steps; in one step, import does all of it"
        return in_shell.pre_import(site, import_job.STEP_ONE)

    def verify(self, site: Site) -> Finding:
        last = state.last_import(site, "pre_import")
        report = site.keep.load("pre-import-report") or {}
        if last is None or not last.complete:
            return failed(last.errors if last else "no step one in the database", "a complete step one")
        found = f"{last.tags} manifests read in {last.seconds['pre_import']:.0f} s; step two is predicted to take "
        return passed(
            found + str(prediction.step_two(site)[0]), "a complete step one", rows=report.get("warnings") or None
        )

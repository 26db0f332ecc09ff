"""The read-only window: opened, proved, and closed again; also when something in it goes wrong."""

from __future__ import annotations

from dataclasses import replace

from georeg_nb.errors import CommandTimeout, GeoregError, JobLost, StepFailed
from georeg_nb.nodes import Node
from georeg_nb.omnibus import LOCKFILES, Omnibus
from georeg_nb.procedures import standing, state
from georeg_nb.procedures.hold_sync import by_hand
from georeg_nb.procedures.import_metadata import by_hand as in_shell
from georeg_nb.procedures.import_metadata import checks, method, prediction
from georeg_nb.procedures.import_metadata.blocks import database_block
from georeg_nb.procedures.imports_by_log import job_name
from georeg_nb.procedures.state import Window
from georeg_nb.runbook import Done, Finding, Plan, Step, failed, passed
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site

LOCKFILE = b'{"version":1}'
NO_ANSWER = "no answer"


class ImportStep(Step):
    """A step of an import: after a failure it says whether pushes are refused."""

    def state_after_failure(self, site: Site) -> str:
        return standing.describe_all(site)


# proofs


def probe_repository(site: Site) -> str:
    """A repository to try an upload in: one that exists, because asking to push to a new one would create it in
    GitLab.
    """
    return next(iter(site.registry.catalog()), "")


def upload_answers(site: Site) -> dict[str, str]:
    """Node → "refused" where its registry refused an upload as read-only (405), "accepted" (and then cancelled at
    once), or "no answer" with what went wrong.
    """
    path = probe_repository(site)
    return {node.name: _answer(site, node, path) for node in site.registry_nodes}


def _answer(site: Site, node: Node, path: str) -> str:
    try:
        return site.registry_at(node).probe_write(path)
    except GeoregError as error:
        return f"{NO_ANSWER} ({error.message.splitlines()[0]})"


def refused_everywhere(site: Site) -> Finding:
    """Proof that pushes are refused, on every registry node (procedures 4.3: config.yml alone is none)."""
    return _proof(upload_answers(site), "refused")


def accepted_everywhere(site: Site) -> Finding:
    """Proof that pushes are accepted again, on every registry node."""
    return _proof(upload_answers(site), "accepted")


def _proof(answers: dict[str, str], wanted: str) -> Finding:
    words = {"refused": "upload refused (405)", "accepted": "upload accepted"}
    found = "; ".join(f"{words.get(answer, answer)} on {name}" for name, answer in sorted(answers.items()))
    expected = f"{words[wanted]} on every registry node"
    if all(answer == wanted for answer in answers.values()):
        return passed(found, expected)
    return failed(found, expected, remedy="`gitlab-ctl restart registry` on that node, then run this again")


# read-only


class ReadOnly(ImportStep):
    """Pushes and deletes are refused (405) until EnableDatabase; reads go on. Source: procedures 4.3."""

    name = "read-only"
    title = "Refuse pushes to the registry"
    interrupts = "pushes and deletions; the registry restarts (seconds)"
    evidence = "run"
    source = "procedures 2.6, 4.3"
    needs = (
        checks.registry_is_legacy,
        checks.image_sync_is_held,
        checks.secondaries_are_proved,
        checks.schema_is_current,
        checks.tags_table_is_empty,
        checks.never_in_use,
        checks.nobody_else_connected,
        checks.no_unnamed_loss,
        method.window_is_short_enough,
    )

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site):
            return Done(checks.MOVED)
        if state.open_window(site) is None or checks.import_died(site):
            return False
        return Done("pushes are refused") if refused_everywhere(site).verdict == "passed" else False

    def manual(self, site: Site) -> str | None:
        return by_hand(site, _settings(site.omnibus), "registry")

    def plan(self, site: Site) -> Plan:
        return Plan(
            [method.change(site), *state.file_changes(site, _settings(site.omnibus), "registry")],
            duration=predicted(site),
            note="the window lasts from here to step enable-database; whatever fails in it lets pushes in again",
        )

    def apply(self, site: Site) -> None:
        method.keep(site)
        if state.open_window(site) is None or refused_everywhere(site).failed:
            # also when a window seems open and pushes are taken: what was read in it proves nothing any more
            _open(site)
        try:
            site.change_gitlab_rb(self.name, _settings, shows_read_only, "registry")
            proof = refused_everywhere(site)
            if proof.failed:
                raise StepFailed(proof.found, remedy=proof.remedy, site=site.name)
        except (CommandTimeout, JobLost):
            raise
        except GeoregError as error:
            raise gave_up(site, error) from error

    def attested(self, site: Site, attestation: dict[str, str]) -> None:
        super().attested(site, attestation)
        if state.open_window(site) is None:
            _open(site)

    def verify(self, site: Site) -> Finding:
        return refused_everywhere(site)

    def break_glass(self, site: Site) -> ByHand:
        return in_shell.read_only(site)

    def undo(self, site: Site) -> None:
        if state.on_own_database(site):
            raise StepFailed("the window is over: the registry works on its database", site=site.name)
        if checks.import_runs(site):
            raise StepFailed(
                "an import is running: pushes let in now would be missing from the database",
                remedy=f"wait for job {job_name(site)}, or end it first; then undo again",
                site=site.name,
            )
        let_pushes_in(site)


def predicted(site: Site) -> str:
    """How long pushes will be refused, in words; empty where that is past."""
    if state.on_own_database(site) or state.open_window(site):
        return ""
    return str(prediction.step_two(site)[0] if method.is_three_step(site) else prediction.one_step(site))


def _open(site: Site) -> None:
    found = state.lockfiles(site)
    lay = (found.database, found.filesystem)
    state.save_window(site, Window(state.stamp(), lockfiles=lay, method=method.choice(site).method))


def _settings(package: Omnibus) -> dict[str, str | None]:
    return {state.READ_ONLY: in_shell.read_only_block(package)}


def shows_read_only(package: Omnibus) -> list[str]:
    """What a node that shall refuse pushes does not show yet."""
    config = package.registry_config()
    return registry_down(package) + (["config.yml is not read-only"] if config is None or not config.read_only else [])


def shows_writable(package: Omnibus) -> list[str]:
    """What a node that shall accept pushes does not show yet."""
    config = package.registry_config()
    return registry_down(package) + (["config.yml is read-only"] if config is None or config.read_only else [])


def shows_legacy(package: Omnibus) -> list[str]:
    """What a node that goes back to the storage, still refusing pushes, does not show yet."""
    config = package.registry_config()
    wrong = config is None or config.mode != "legacy" or not config.read_only
    return registry_down(package) + (["config.yml is not legacy and read-only"] if wrong else [])


def registry_down(package: Omnibus) -> list[str]:
    """Whether the supervisor sees the registry up."""
    service = package.service("registry")
    return [] if service and service.up else ["the registry is not running"]


# giving up


class LetPushesIn(ImportStep):
    """An import that was killed leaves its window open: it is closed first, whatever is decided about the rest."""

    name = "let-pushes-in"
    title = "Let pushes in again where an import died"
    interrupts = "the registry restarts (seconds); then pushes are accepted again"
    evidence = "run"
    source = "procedures 2.6 After a failure"

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site):
            return Done(checks.MOVED)
        return False if checks.import_died(site) else Done("no import died here")

    def manual(self, site: Site) -> str | None:
        return by_hand(site, {state.READ_ONLY: None}, "registry")

    def plan(self, site: Site) -> Plan:
        return Plan(state.file_changes(site, {state.READ_ONLY: None}, "registry"), duration="1 to 5 min")

    def apply(self, site: Site) -> None:
        let_pushes_in(site)

    def break_glass(self, site: Site) -> str:
        return in_shell.let_pushes_in(site)

    def verify(self, site: Site) -> Finding:
        return accepted_everywhere(site)


def let_pushes_in(site: Site) -> None:
    """End the window in legacy mode, as it was before: lock files as they lay, read-only off. Source: procedures
    2.6.

    Where the switch to the database was begun, every node goes back first, still refusing pushes: with one node on the
    database and another on the storage, each would take pushes that the other does not know. A node that fails when
    only pushes are let in keeps nobody else from it.
    """
    opened = state.window(site)
    restore_lockfiles(site, opened)
    if site.keep.load("enabled") and len(site.registry_nodes) > 1:
        blocks: dict[str, str | None] = {state.DATABASE: database_block(site, enabled=False)}
        site.change_gitlab_rb("reopen-legacy", blocks, shows_legacy, "registry")
    site.change_gitlab_rb("reopen", {state.READ_ONLY: None}, shows_writable, "registry", every=True)
    site.keep.remove("enabled")
    close(site, "given up")


def close(site: Site, outcome: str) -> None:
    """Keep how the last window ended; one that was closed keeps its time."""
    last = state.window(site)
    if last is not None:
        state.save_window(site, replace(last, closed=last.closed or state.stamp(), outcome=outcome))


def restore_lockfiles(site: Site, opened: Window | None) -> None:
    """Put the lock files back as they lay when the window was opened: a legacy registry refuses to start beside
    `database-in-use`, which an import leaves behind (registry 3.1, 3.3).
    """
    config = site.omnibus.registry_config()
    if opened is None or config is None or not config.root_directory:
        return
    node, now = site.omnibus.node, state.lockfiles(site)
    folder = f"{config.root_directory}/{LOCKFILES}"
    if now.database and opened.lockfiles[0] is False:
        node.remove_file(f"{folder}/database-in-use")
    if now.filesystem is False and opened.lockfiles[1]:
        node.write_file(f"{folder}/filesystem-in-use", LOCKFILE, mode=0o644)


def drop_legacy_lock(site: Site) -> None:
    """Remove `filesystem-in-use`: beside it a registry does not start on its database (registry 3.3)."""
    config = site.omnibus.registry_config()
    if config is not None and config.root_directory and state.lockfiles(site).filesystem:
        site.omnibus.node.remove_file(f"{config.root_directory}/{LOCKFILES}/filesystem-in-use")


def gave_up(site: Site, error: GeoregError) -> StepFailed:
    """Let pushes in again after a failure in the window, and make the error that says so."""
    site.progress("letting pushes in again")
    try:
        let_pushes_in(site)
        ended = "pushes are accepted again, in legacy mode as before"
    except GeoregError as second:
        where = f" on {second.node}" if second.node else ""
        ended = f"AND PUSHES ARE STILL REFUSED{where}, because letting them in failed too: {second.message}"
    return StepFailed(f"{error.message}\n  {ended}", remedy=error.remedy, site=site.name, node=error.node)

"""Back to legacy metadata: the primary first, then the secondaries, while image sync is held. Source: procedures 2.6.

The other way round than the migration, so that at no time a legacy secondary syncs from a primary on its database.
"""

from __future__ import annotations

from dataclasses import replace

from georeg_nb.procedures import guard, shell, standing, state
from georeg_nb.procedures.directions import Direction
from georeg_nb.procedures.forecast import read_tags
from georeg_nb.procedures.hold_sync import HoldImageSync, ReleaseImageSync, ResyncEverything, by_hand
from georeg_nb.procedures.import_metadata import by_hand as in_shell
from georeg_nb.procedures.import_metadata import window
from georeg_nb.procedures.import_metadata.blocks import database_block
from georeg_nb.procedures.import_metadata.switch import RecomputeChecksums, back_to_legacy, lost_repositories
from georeg_nb.procedures.import_metadata.way_back import way_back
from georeg_nb.runbook import (
    Done,
    Finding,
    Plan,
    Procedure,
    Step,
    check,
    failed,
    later,
    not_applicable,
    passed,
    warning,
)
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site

RESTORE = """On every registry node of {site}: `gitlab-ctl stop registry`.
Restore the registry's storage from the backup of before {opened} (UTC), where garbage collection has run on it since; a
storage that garbage collection was held for needs nothing: its legacy metadata are as they were.
Then `gitlab-ctl start registry` on every registry node. Say which backup it was, or that none was needed, and why.
WHAT WAS PUSHED OR MOVED SINCE IS LOST: {lost}."""


def is_back(site: Site) -> bool:
    """Legacy, taking pushes, and nothing of a move is left to be taken back."""
    return state.is_legacy(site) and not state.read_only_nodes(site) and not site.keep.load("enabled")


@check("the way back is open", source="procedures 2.6; registry 0 fact 7, 7", evidence="run")
def way_back_is_open(site: Site) -> Finding:
    """What was pushed into the database is in the database alone; and garbage collection, where it is not held, takes
    out of the storage what legacy metadata need.
    """
    if is_back(site):
        return not_applicable("the registry keeps its metadata in the storage already")
    if state.is_legacy(site):
        return passed("on its way back: the section of the site goes on", "open")
    found, expected = way_back(site), "nothing changed since the import, and garbage collection held or not begun"
    if not found.reasons:
        return passed("open: every tag is as in the snapshot of before the import", expected)
    said, rows, tables = "; ".join(found.reasons), found.by_repository(), {"changed_since": found.changed}
    if site.options.by_restore:
        remedy = "by_restore is true: the tags in the table will be lost"
        return replace(warning(said, expected, remedy=remedy, rows=rows), tables=tables)
    remedy = f"{found.remedy}: by_restore: true gives up what is in the table" if found.changed else found.remedy
    return replace(failed(said, expected, remedy=remedy, rows=rows), tables=tables)


@check("every site serves its snapshot from the storage", source="procedures 2.6", evidence="run")
def serves_its_snapshot(site: Site) -> Finding:
    """Geo removes from the secondaries what it does not see on the primary, so nothing may be missing now."""
    if not is_back(site):
        return later("after the site's way back")
    if not site.keep.load("reverted"):
        return not_applicable("this site was not reverted")
    kept, served = state.snapshot(site), read_tags(site.registry, site.progress)
    # one that was pushed again since has another digest, and is no loss
    lost = [f"{path}:{tag}" for path, tag in sorted(kept.tags if kept else ()) if (path, tag) not in served]
    if not lost:
        return passed("nothing is missing", "nothing is missing")
    return failed(
        f"{len(lost)} tags are missing, e.g. {', '.join(lost[:5])}",
        "nothing is missing",
        remedy="find out who removed them. Do not release before",
    )


BACK_TO_LEGACY = Direction(is_back, "legacy again", f"! {shell.ENABLED}", serves_its_snapshot)


class _Revert(Step):
    evidence = "derived"
    source = "procedures 2.6 After a failure"

    def state_after_failure(self, site: Site) -> str:
        return standing.describe_all(site)


class RestoreBackup(_Revert):
    """Where the way back is closed, and what came since is given up: the storage is as it was before the import."""

    name = "restore-backup"
    title = "Restore the storage of before the import"
    interrupts = "the registry stands still while the storage is restored"
    reversible = False

    def skip(self, site: Site) -> str | None:
        return None if site.options.by_restore else "by_restore is false"

    def is_done(self, site: Site) -> bool | Done:
        if is_back(site):
            return Done("legacy")
        kept, enabled = site.keep.load(f"attested-{self.name}"), site.keep.load("enabled")
        if kept and enabled and kept["when"] > enabled["at"]:
            return Done(f"attested by {kept['who']}, {kept['when']}: {kept['text']}")
        return False if way_back(site).reasons else Done("the way back is open: nothing needs to be restored")

    def manual(self, site: Site) -> str | None:
        last, found = state.window(site), way_back(site)
        lost = ", ".join(f"{row['repository']}:{row['tag']}" for row in found.changed) or "nothing"
        return RESTORE.format(site=site.name, opened=last.opened if last else "the import", lost=lost)

    def verify(self, site: Site) -> Finding:
        return passed("attested; what is served then is compared before pushes are let in", "attested")

    def break_glass(self, site: Site) -> str:
        return "by hand it is what its instruction says"


class BackToLegacy(_Revert):
    """Pushes are refused, legacy metadata serve every tag of the snapshot, and only then pushes are let in again."""

    name = "back-to-legacy"
    title = "Switch the registry back to legacy metadata"
    interrupts = "pushes, for the time of three restarts of the registry"

    def is_done(self, site: Site) -> bool | Done:
        return Done("the registry keeps its metadata in the storage") if is_back(site) else False

    def manual(self, site: Site) -> str | None:
        return by_hand(site, self._blocks(site), "registry")

    def plan(self, site: Site) -> Plan:
        lost = "WHAT WAS PUSHED SINCE THE IMPORT IS LOST. " if site.options.by_restore else ""
        return Plan(
            state.file_changes(site, self._blocks(site), "registry"),
            duration="3 to 15 min for each node, and some seconds per thousand tags",
            note=f"{lost}In three rounds: refuse pushes; legacy, and all tags compared; let pushes in. The database is "
            "left as it is; to migrate again it is made anew",
        )

    def apply(self, site: Site) -> None:
        back_to_legacy(site, restored=site.options.by_restore)
        site.keep.save("reverted", {"at": state.stamp()})

    def attested(self, site: Site, attestation: dict[str, str]) -> None:
        super().attested(site, attestation)
        site.keep.remove("enabled")
        window.close(site, "given up")
        site.keep.save("reverted", {"at": state.stamp()})

    def verify(self, site: Site) -> list[Finding]:
        said = state.running_on_database(site)
        found = "; ".join(f"{'database' if value else 'legacy'} on {node}" for node, value in said.items())
        mode = failed(found, "legacy", remedy="restart the registry") if any(said.values()) else passed(found, "legacy")
        return [mode, serves_its_snapshot(site), window.accepted_everywhere(site)]

    def break_glass(self, site: Site) -> ByHand:
        return ByHand(
            done=[shell.everywhere(site, "", f"! {shell.ENABLED} && ! {shell.READ_ONLY}")],
            finish=[
                *in_shell.enable_database(site).undo,
                shell.change(site, "garbage collection as it was before", shell.drop(state.COLLECTION)),
                shell.first(
                    site,
                    "note that this site went back",
                    'rm -f "$kept/collection-held.json"; printf \'{"at":"%s"}\' "$(now)" | keep reverted',
                ),
            ],
            no_undo="the way forward is the migration again, into a database that is made anew",
            loses=in_shell.CLOSED,
        )

    @staticmethod
    def _blocks(site: Site) -> dict[str, str | None]:
        return {state.DATABASE: database_block(site, enabled=False), state.READ_ONLY: None, state.COLLECTION: None}


class RecomputeAfterRevert(RecomputeChecksums):
    """Tags that the import had left behind are there again, so Geo's checksums of their repositories are too old."""

    name = "recompute-checksums"
    title = "Let Geo compute the checksums of repositories that have a tag again"

    def is_done(self, site: Site) -> bool | Done:
        reverted, kept = site.keep.load("reverted"), site.keep.load("checksums-reverted")
        if is_back(site) and not reverted:
            return Done("this site was not reverted")
        if is_back(site) and kept and kept["at"] >= reverted["at"]:
            return Done(f"computed {kept['at']}")
        return False if lost_repositories(site) else Done("no tag was left behind")

    def apply(self, site: Site) -> None:
        super().apply(site)
        site.keep.save("checksums-reverted", {"at": state.stamp()})


class ResyncAfterRevert(ResyncEverything):
    """Every repository is synced again, as after a migration; on sites that were never reverted there is no need to."""

    def is_done(self, site: Site) -> bool | Done:
        if self.direction.arrived(site.sites) and not any(one.keep.load("reverted") for one in site.sites.all):
            return Done("no site was reverted")
        return super().is_done(site)


WAY_BACK = Procedure(
    "way-back",
    title="Is the way back open?",
    checks=[*guard.ANSWERS.checks, way_back_is_open],
    pair_checks=guard.ANSWERS.pair_checks,
)
HOLD = Procedure("hold-sync", steps=[HoldImageSync(BACK_TO_LEGACY)], title="Hold image sync")
REVERT = Procedure(
    "revert", steps=[RestoreBackup(), BackToLegacy(), RecomputeAfterRevert()], title="Back to legacy metadata"
)
RELEASE = Procedure(
    "release-sync",
    checks=[serves_its_snapshot],
    steps=[ReleaseImageSync(BACK_TO_LEGACY), ResyncAfterRevert(BACK_TO_LEGACY)],
    title="Release image sync and resync everything",
)

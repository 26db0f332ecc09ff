"""The end of the window: the database is enabled, pushes are let in and that is proved; and the quick way back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from georeg_nb import gitlab_rb
from georeg_nb.errors import CommandTimeout, GeoregError, JobLost, StepFailed
from georeg_nb.omnibus import Omnibus
from georeg_nb.procedures import state
from georeg_nb.procedures.forecast import read_tags
from georeg_nb.procedures.hold_sync import by_hand
from georeg_nb.procedures.import_metadata import by_hand as in_shell
from georeg_nb.procedures.import_metadata import checks, window
from georeg_nb.procedures.import_metadata.blocks import database_block
from georeg_nb.procedures.import_metadata.way_back import must_be_open
from georeg_nb.procedures.import_metadata.window import ImportStep
from georeg_nb.procedures.imports_by_log import job_name
from georeg_nb.runbook import Change, Done, Finding, Plan, failed, passed
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site

RECOMPUTE = "ContainerRepository.find({}).replicator.verify"


class EnableDatabase(ImportStep):
    """The registry works on its database, and pushes are accepted again. Source: procedures 2.6 step 5.

    On one registry node that is one reconfigure. Of several, each is switched first, still refusing pushes, and only
    when all work on the database are pushes let in, one node after the other: a push into the database would be
    unknown to a node that still reads the storage, and one into the storage would be lost.
    """

    name = "enable-database"
    title = "Switch the registry to its database and let pushes in"
    interrupts = "the registry restarts (seconds); then pushes are accepted again"
    evidence = "run"
    source = "procedures 2.6, 4.3, registry 0 facts 7, 13"

    def is_done(self, site: Site) -> bool | Done:
        if not state.on_own_database(site) or state.read_only_nodes(site):
            return False
        said = state.running_on_database(site)
        return Done("enabled, and so says the registry") if all(said.values()) else False

    def manual(self, site: Site) -> str | None:
        instruction = by_hand(site, self._blocks(site), "registry")
        if instruction is None or len(site.registry_nodes) == 1:
            return instruction
        return (
            "In two rounds over all registry nodes. First set the database on every node and leave the registry "
            f"read-only; remove what was set for {state.READ_ONLY} only when every node works on its database: a push "
            f"in between would be lost.\n{instruction}"
        )

    def plan(self, site: Site) -> Plan:
        changes = state.file_changes(site, self._blocks(site), "registry")
        rounds = ""
        if len(site.registry_nodes) > 1:
            rounds = "two rounds over the nodes: all are switched first, then pushes are let in on each; "
            nodes = [package.node.name for package in site.packages("registry")]
            changes += [Change("command", name, after="gitlab-ctl reconfigure (second round)") for name in nodes]
        return Plan(
            changes,
            duration="1 to 5 min" + (" for each node and round" if rounds else ""),
            note=f"{rounds}with the first push after this the quick way back is closed; a day later online garbage "
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
            if len(site.registry_nodes) > 1 and not state.on_own_database(site):
                blocks: dict[str, str | None] = {state.DATABASE: database_block(site, enabled=True)}
                shows = self._differences(site, window.shows_read_only)
                site.change_gitlab_rb(f"{self.name}-switch", blocks, shows, "registry")
                if (refused := window.refused_everywhere(site)).failed:
                    raise StepFailed(refused.found, remedy=refused.remedy, site=site.name)
            shows = self._differences(site, window.shows_writable)
            site.change_gitlab_rb(self.name, self._blocks(site), shows, "registry")
        except (CommandTimeout, JobLost):
            raise
        except GeoregError as error:
            raise self._fell_back(site, error) from error
        window.close(site, "migrated")

    def attested(self, site: Site, attestation: dict[str, str]) -> None:
        super().attested(site, attestation)
        if (proved := state.proof(site)) is not None:
            site.keep.save("enabled", {"at": proved["at"], "window": proved["window"]})

    @staticmethod
    def _differences(site: Site, pushes: Callable[[Omnibus], list[str]]) -> Callable[[Omnibus], list[str]]:
        def differences(package: Omnibus) -> list[str]:
            config = package.registry_config()
            wrong = pushes(package)
            if config is None or config.mode != "database" or not state.is_ours(config, site):
                wrong.append("config.yml does not enable the database")
            elif not wrong and not site.registry_at(package.node).identity().database:
                wrong.append("the registry does not say that it works on its database")
            return wrong

        return differences

    @staticmethod
    def _fell_back(site: Site, error: GeoregError) -> StepFailed:
        """gitlab.rb was put back: legacy. Say so if anything was pushed into the database in the meantime."""
        try:
            if state.on_own_database(site):  # it could not be put back, so nothing else may be touched
                return StepFailed(error.message, remedy=error.remedy, site=site.name, node=error.node)
        except GeoregError as second:  # a node that cannot be read: nobody is let in before it is known
            return StepFailed(
                f"{error.message}\n  the other nodes were left as they are: {second}",
                remedy="when it can be reached again, run this again: it goes on from there",
                site=site.name,
                node=error.node,
            )
        kept = site.keep.load("enabled") or {}
        pushed: dict[tuple[str, str], datetime] = {}
        if kept.get("at"):
            pushed = site.metadata_db.pushed_since(datetime.fromisoformat(kept["at"]))
        if pushed:
            names = ", ".join(sorted(":".join(key) for key in pushed)[:5])
            error.message += f"\n  {len(pushed)} tags were pushed in the meantime and are only in the database: {names}"
        return window.gave_up(site, error)

    def verify(self, site: Site) -> list[Finding]:
        enabled = state.at_each_node(site, lambda registry: registry.identity().database)
        several = len(enabled) > 1
        found = "; ".join(
            ("database" if value else "legacy") + (f" on {node}" if several else "") for node, value in enabled.items()
        )
        if all(enabled.values()):
            header = passed(found, "database")
        else:
            header = failed(found, "database", remedy="restart the registry")
        files = state.lockfiles(site)
        if files.filesystem:
            lock = failed(str(files), "no filesystem-in-use", remedy="remove it: an enforcing registry would not start")
        else:
            lock = passed(str(files), "database-in-use, or not known")
        return [header, lock]

    def break_glass(self, site: Site) -> ByHand:
        return in_shell.enable_database(site)

    def undo(self, site: Site) -> None:
        back_to_legacy(site)

    @staticmethod
    def _blocks(site: Site) -> dict[str, str | None]:
        return {state.DATABASE: database_block(site, enabled=True), state.READ_ONLY: None}


def back_to_legacy(site: Site, *, restored: bool = False) -> None:
    """The way back: refuse pushes, look again, legacy as before, and pushes only when all is served. Source: 2.6.

    `restored`: what is only in the database is given up, and the backup of the storage was restored where it had to be.
    Raises StepFailed, with pushes let in again, when the way is closed (images pushed since exist only in the
    database), or when legacy metadata do not serve what they did: then the registry is on its database again.
    """
    if checks.import_runs(site):
        raise StepFailed(
            "an import is running",
            remedy=f"let job {job_name(site)} end, or end it; then undo again",
            site=site.name,
        )
    if not restored:
        must_be_open(site)
    config = site.omnibus.registry_config()
    assert config is not None
    read_only = gitlab_rb.read_only(config.storage)
    site.change_gitlab_rb("back-1", {state.READ_ONLY: read_only}, window.shows_read_only, "registry")
    try:
        if not restored:
            must_be_open(site)
    except StepFailed:
        site.change_gitlab_rb("back-0", {state.READ_ONLY: None}, window.shows_writable, "registry")
        raise
    window.restore_lockfiles(site, state.window(site))
    legacy: dict[str, str | None] = {state.DATABASE: database_block(site, enabled=False)}
    site.change_gitlab_rb("back-legacy", legacy, window.shows_legacy, "registry")
    if lost := not_served(site):
        forward = {state.DATABASE: database_block(site, enabled=True), state.READ_ONLY: None}
        window.drop_legacy_lock(site)
        site.change_gitlab_rb("back-forward", forward, window.shows_writable, "registry")
        raise StepFailed(
            f"legacy metadata do not serve {len(lost)} tags of before the import, e.g. {', '.join(lost[:5])}; the "
            "registry works on its database again",
            remedy="restore the storage from the backup of before the import, then by_restore: true",
            site=site.name,
        )
    blocks = {**legacy, state.READ_ONLY: None, state.COLLECTION: None}
    site.change_gitlab_rb("back-2", blocks, window.shows_writable, "registry")
    site.keep.remove("enabled")
    site.keep.remove("collection-held")
    window.close(site, "given up")


def not_served(site: Site) -> list[str]:
    """Tags ("path:tag") of the snapshot that the registry does not serve with the digest that they had then."""
    kept = state.snapshot(site)
    served = read_tags(site.registry, site.progress)
    return [
        f"{path}:{tag}"
        for (path, tag), digest in sorted(kept.tags.items() if kept else ())
        if (path, tag) not in served or (digest and served[path, tag] != digest)
    ]


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
        window.close(site, "migrated")  # EnableDatabase did, unless it was killed in its reconfigure
        last = state.window(site)
        if last is not None:
            kept = {"window": last.opened, "at": state.stamp(), "seconds": last.seconds}
            site.keep.save("writable", kept)

    def verify(self, site: Site) -> Finding:
        return window.accepted_everywhere(site)

    def break_glass(self, site: Site) -> ByHand:
        return in_shell.writable(site)


def lost_repositories(site: Site) -> list[str]:
    """Repositories of which the import left a tag behind, as was agreed."""
    kept = state.snapshot(site)
    if kept is None:
        return []
    compared = state.compare(site, kept.tags, site.metadata_db.all_tags())
    return sorted({one.repository for one in compared.differences if one.state == "accepted"})


class RecomputeChecksums(ImportStep):
    """Geo keeps a checksum of each repository's tags on the primary and computes it anew only when something is pushed.

    Where a tag was left behind, the old one would make Geo find every later sync wrong, and sync for ever (seen in
    the lab).
    """

    name = "recompute-checksums"
    title = "Let Geo compute the checksums of repositories that lost a tag"
    evidence = "derived"
    source = "rails 3; GitLab's troubleshooting of verification"

    def skip(self, site: Site) -> str | None:
        return "only the primary keeps checksums" if site.role == "secondary" else None

    def is_done(self, site: Site) -> bool | Done:
        if not state.on_own_database(site):
            return Done("no tag is agreed to be lost") if not state.accepted_losses(site) else False
        last, kept = state.window(site), site.keep.load("checksums")
        if last is None:
            return Done("moved earlier")
        if kept and kept.get("window") == last.opened:
            return Done(f"computed {kept['at']}")
        return Done("no tag was lost") if not lost_repositories(site) else False

    def plan(self, site: Site) -> Plan:
        names = {name.rpartition(":")[0] for name in state.accepted_losses(site)}
        changes = [
            Change("command", site.rails_node.name, after=f"gitlab-rails runner '{RECOMPUTE.format(f'id of {name}')}'")
            for name in sorted(names)
        ]
        return Plan(changes, duration="a minute for each")

    def apply(self, site: Site) -> None:
        lost = lost_repositories(site)
        for path in lost:
            number = site.gitlab.repository_id(path)
            if number is None:
                site.progress(f"GitLab has no record of {path}: Geo does not replicate it, there is nothing to compute")
                continue
            job = site.rails.run_job(f"{site.name}-{self.name}", ("gitlab-rails", "runner", RECOMPUTE.format(number)))
            job.check()
        last = state.window(site)
        if last is not None:
            site.keep.save("checksums", {"window": last.opened, "at": state.stamp(), "repositories": lost})

    def break_glass(self, site: Site) -> ByHand | str:
        return in_shell.recompute_checksums(site, RECOMPUTE)

    def verify(self, site: Site) -> Finding:
        kept = site.keep.load("checksums") or {}
        names = ", ".join(kept.get("repositories") or []) or "none needed it"
        return passed(names, "computed") if kept else failed("not computed", "computed")

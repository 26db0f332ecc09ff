"""Is the way back to legacy metadata open? And what keeps it open: garbage collection held, until the sign-off.

What is pushed into a database is in the database alone, so the first push closes the way. And online garbage collection
takes manifests out of the storage from one day after the import on: that closes it too, unless it is held. Source:
procedures 2.6; registry 0 fact 7, 2.4, 7.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from georeg_nb import gitlab_rb
from georeg_nb.errors import StepFailed
from georeg_nb.omnibus import REGISTRY_CONFIG, Omnibus
from georeg_nb.procedures import shell, standing, state
from georeg_nb.procedures.hold_sync import by_hand
from georeg_nb.runbook import Done, Finding, Plan, Procedure, Step, failed, passed
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site

HOLD_COLLECTION = gitlab_rb.assignment("registry", ["gc", "disabled"], True)
WAY_BACK = timedelta(
    hours=20
)  # online garbage collection removes manifests from the storage from one day after the import
NOT_HELD = "the sites file does not say hold_garbage_collection"
HELD = f"grep -q '^gc: .*\"disabled\":true' {REGISTRY_CONFIG}"


# is it open?


@dataclass(frozen=True)
class WayBack:
    """`reasons` say why it is closed; empty: it is open. `changed` are the tags that only the database knows as they
    are now, one row each: repository, tag, what happened to it, when (UTC; "" where that is not known).
    """

    reasons: list[str] = field(default_factory=list)
    changed: list[dict[str, str]] = field(default_factory=list)
    remedy: str = ""

    def by_repository(self) -> list[dict[str, Any]]:
        """One row per repository: how many of its tags were pushed, moved or deleted, and from when to when."""
        rows = []
        for path in sorted({row["repository"] for row in self.changed}):
            own = [row for row in self.changed if row["repository"] == path]
            counted, times = Counter(row["what"] for row in own), sorted(row["when"] for row in own if row["when"])
            ends = {"first (UTC)": times[0] if times else "", "last (UTC)": times[-1] if times else ""}
            rows.append({"repository": path, **{what: counted[what] for what in WHAT.values()}, **ends})
        return rows


WHAT = {"extra": "pushed", "differing": "moved", "missing": "deleted"}


def way_back(site: Site) -> WayBack:
    """Read it off the site: what is kept of its move, its configuration, and every tag of its database."""
    kept, enabled = state.snapshot(site), site.keep.load("enabled")
    if kept is None or not enabled:
        return WayBack(["nothing is known of the move on this site"], remedy="restore the backup")
    since = datetime.fromisoformat(enabled["at"])
    reasons, remedy = [], ""
    if not collection_was_held(site, since) and datetime.now(UTC) - since > WAY_BACK:
        reasons.append(
            "the way back is closed: online garbage collection may have begun to remove manifests from the storage"
            f" ({since + WAY_BACK:%Y-%m-%d %H:%M} UTC)"
        )
        remedy = "restore the backup of before the import"
    compared = state.compare(site, kept.tags, site.metadata_db.all_tags())
    times = {} if compared.equal else site.metadata_db.pushed_since(since)
    changed = [
        {
            "repository": one.repository,
            "tag": one.tag,
            "what": WHAT[one.kind],
            "when": f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if (at := times.get((one.repository, one.tag))) else "",
        }
        for one in sorted(compared.staying)
    ]
    if changed:
        names = ", ".join(f"{row['repository']}:{row['tag']}" for row in changed[:5])
        first = min((row["when"] for row in changed if row["when"]), default="")
        when = f", first at {first} UTC" if first else ""
        reasons.append(f"the way back is closed: {len(changed)} tags were changed since the import{when}, e.g. {names}")
        remedy = remedy or "these exist only in the database; restore the backup if they may be lost"
    return WayBack(reasons, changed, remedy)


def must_be_open(site: Site) -> None:
    """Raises StepFailed with the reasons where it is closed."""
    found = way_back(site)
    if found.reasons:
        raise StepFailed("; ".join(found.reasons), remedy=found.remedy, site=site.name)


def collection_is_held(site: Site) -> bool:
    """On every registry node, as rendered."""
    return all(config is not None and not config.collects_garbage for _, config in state.registry_configs(site))


def collection_was_held(site: Site, since: datetime) -> bool:
    """Held now, and from before `since` on, as far as georeg knows."""
    kept = site.keep.load("collection-held")
    return bool(kept) and datetime.fromisoformat(kept["at"]) <= since and collection_is_held(site)


# held, until the sign-off


class _Collection(Step):
    interrupts = "the registry restarts (seconds)"
    evidence = "run"
    source = "registry 0 fact 7, 2.4, 7"

    def manual(self, site: Site) -> str | None:
        return by_hand(site, self._blocks(), "registry")

    def state_after_failure(self, site: Site) -> str:
        return standing.describe_all(site)

    @staticmethod
    def _blocks() -> dict[str, str | None]:
        return {state.COLLECTION: None}


def _shows(held: bool) -> Any:
    def differences(package: Omnibus) -> list[str]:
        config, service = package.registry_config(), package.service("registry")
        wrong = [] if service and service.up else ["the registry is not running"]
        if config is None or config.collects_garbage is held:
            wrong.append(f"config.yml does not have online garbage collection {'off' if held else 'on'}")
        return wrong

    return differences


class HoldCollection(_Collection):
    """Online garbage collection is off from before the switch on, so that it takes nothing out of the storage that the
    way back needs. Without effect while the registry is legacy.
    """

    name = "hold-garbage-collection"
    title = "Hold online garbage collection until the migration is signed off"

    def skip(self, site: Site) -> str | None:
        return None if site.parameters.registry.hold_garbage_collection else NOT_HELD

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site):
            return Done("the registry works on its database already: section 'sign-off' says how it stands")
        return Done("held") if collection_is_held(site) and site.keep.load("collection-held") else False

    def plan(self, site: Site) -> Plan:
        return Plan(
            state.file_changes(site, self._blocks(), "registry"),
            duration="1 to 5 min",
            note="the storage grows until the sign-off; the first push into the database closes the way back all the "
            "same",
        )

    def apply(self, site: Site) -> None:
        site.change_gitlab_rb(self.name, self._blocks(), _shows(True), "registry")
        site.keep.save("collection-held", {"at": state.stamp()})

    def attested(self, site: Site, attestation: dict[str, str]) -> None:
        super().attested(site, attestation)
        site.keep.save("collection-held", {"at": state.stamp()})

    def verify(self, site: Site) -> Finding:
        if collection_is_held(site):
            return passed("off on every registry node", "off")
        return failed("on", "off", remedy="is registry['gc'] set elsewhere in gitlab.rb?")

    def undo(self, site: Site) -> None:
        if state.on_own_database(site):
            raise StepFailed(
                "the registry works on its database: this would sign the migration off",
                remedy="section 'sign-off' does that, by its own name",
                site=site.name,
            )
        site.keep.remove("collection-held")
        site.change_gitlab_rb(f"{self.name}-undo", {state.COLLECTION: None}, _shows(False), "registry")

    def break_glass(self, site: Site) -> ByHand | str:
        if why := self.skip(site):
            return why
        on, off = shell.put(state.COLLECTION, HOLD_COLLECTION), shell.drop(state.COLLECTION)
        return ByHand(
            done=[shell.everywhere(site, "", f"{HELD} || {shell.ENABLED}")],
            finish=[
                shell.change(site, "hold online garbage collection", on),
                shell.first(site, "note when", 'printf \'{"at":"%s"}\' "$(now)" | keep collection-held'),
            ],
            undo=[
                shell.first(site, "so that a later run knows it", 'rm -f "$kept/collection-held.json"'),
                shell.change(site, "let online garbage collection run", off),
            ],
            loses="BACK, once the registry works on its database: the way back closes a day after the switch",
        )

    @staticmethod
    def _blocks() -> dict[str, str | None]:
        return {state.COLLECTION: HOLD_COLLECTION}


class SignOff(_Collection):
    """The migration is taken for good: online garbage collection runs, and from then on only the backup leads back."""

    name = "sign-off"
    title = "Sign the migration off: let online garbage collection run"
    reversible = False

    def skip(self, site: Site) -> str | None:
        if site.parameters.registry.hold_garbage_collection or site.keep.load("collection-held"):
            return None
        return NOT_HELD

    def is_done(self, site: Site) -> bool | Done:
        if state.on_own_database(site) and not collection_is_held(site) and not site.keep.load("collection-held"):
            return Done("online garbage collection runs: nothing is held")
        return False

    def plan(self, site: Site) -> Plan:
        return Plan(
            state.file_changes(site, self._blocks(), "registry"),
            duration="1 to 5 min",
            note="from then on garbage collection removes from the storage what the way back to legacy metadata needs: "
            "only the backup leads back",
        )

    def apply(self, site: Site) -> None:
        if not state.on_own_database(site):
            raise StepFailed("the registry is not on its database: there is nothing to sign off", site=site.name)
        site.keep.remove("collection-held")
        site.change_gitlab_rb(self.name, self._blocks(), _shows(False), "registry")

    def verify(self, site: Site) -> Finding:
        if collection_is_held(site):
            return failed("off", "on", remedy="is registry['gc'] switched off elsewhere in gitlab.rb?")
        return passed("garbage collection is on, on every registry node", "on")

    def break_glass(self, site: Site) -> ByHand | str:
        if why := self.skip(site):
            return why
        return ByHand(
            done=[shell.everywhere(site, "", f"! {HELD}")],
            finish=[
                shell.first(site, "so that a later run knows it", 'rm -f "$kept/collection-held.json"'),
                shell.change(site, "let online garbage collection run", shell.drop(state.COLLECTION)),
            ],
            no_undo="what garbage collection removed only the backup brings again",
            loses="ON: the way back to legacy metadata",
        )


SIGN_OFF = Procedure("sign-off", title="Sign the migration off", steps=[SignOff()])

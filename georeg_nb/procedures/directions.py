"""Which way the sites go while image sync is held: onto their databases, or back; and when it may be released."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from georeg_nb.procedures import shell, state
from georeg_nb.runbook import Check, Finding, check, failed, later, not_applicable, passed
from georeg_nb.site import Site, Sites

EQUAL = "nothing vanished, nothing changed"


@check("every site equals its own snapshot", source="procedures 2.6 H2", evidence="derived")
def equals_its_snapshot(site: Site) -> Finding:
    """Geo removes from the secondaries what it does not see on the primary, so nothing may be missing now.

    A tag that was pushed anew after pushes were let in again is no difference; one that vanished is, until it is
    agreed to.
    """
    if not state.on_own_database(site):
        return later("after this site's import")
    kept, proved, closed = state.snapshot(site), state.proof(site), state.window(site)
    if kept is None or proved is None or closed is None:
        return _without_snapshot(site)
    changed = state.compare(site, kept.tags, site.metadata_db.all_tags())
    # from when the database was enabled on: the window may have been closed later, by the run that took a killed one up
    began = (site.keep.load("enabled") or {}).get("at") or closed.closed
    since = datetime.fromisoformat(began) if began else None
    pushed = site.metadata_db.pushed_since(since) if since and not changed.equal else {}
    wrong = [one for one in changed.staying if (one.repository, one.tag) not in pushed]
    if not wrong:
        news = len(changed.staying)
        return passed(f"{len(kept.tags)} tags as in the snapshot" + (f", {news} pushed since" if news else ""), EQUAL)
    return failed(
        f"{len(wrong)} tags are not as in the snapshot",
        EQUAL,
        remedy="find out who removed them; what was meant to go is named in accept_losses (path:tag). Do not "
        "release before",
        rows=[one.row() for one in wrong],
    )


def _without_snapshot(site: Site) -> Finding:
    if all(map(state.on_own_database, site.sites.all)) and not any(
        state.is_held(other) for other in site.sites.secondaries
    ):
        return not_applicable("this site was moved earlier, and image sync goes on")
    return failed(
        "the site is on its database, but its snapshot is not on the node",
        "the snapshot of before the import",
        remedy=f"look for {site.keep.path('snapshot')} in earlier records (kept/), put it back; or compare the "
        f"sites by hand "
        "before image sync is released",
    )


@dataclass(frozen=True)
class Direction:
    """`there` tells whether a site has arrived, `words` where that is, `in_shell` is a test of it for a node's prompt;
    `proof` must be passed on every site before image sync is released.
    """

    there: Callable[[Site], bool]
    words: str
    in_shell: str
    proof: Check

    def arrived(self, sites: Sites) -> bool:
        """Whether every site has."""
        return all(self.there(site) for site in sites.all)

    def wrong(self, sites: Sites) -> list[str]:
        """Sites whose images may not be taken for whole."""
        return [site.name for site in sites.all if self.proof(site).verdict not in ("passed", "not applicable")]


ONTO_DATABASE = Direction(state.on_own_database, "on its database", shell.ENABLED, equals_its_snapshot)

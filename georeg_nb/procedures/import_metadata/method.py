"""One step or three: decided once for a site, kept on it, not changed in the middle. Source: procedures 2.6 Choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from georeg_nb.procedures import state
from georeg_nb.procedures.import_metadata import checks, prediction
from georeg_nb.runbook import Change, Finding, check, failed, later, not_applicable, passed, warning
from georeg_nb.site import Site

ONE_STEP, THREE_STEP = "one-step", "three-step"
ONE_STEP_BYTES = 200 * 2**30  # "one-step when it is small (< 200 GiB)" (procedures 2.6 Choice)
ONE_STEP_SHARE = 0.25  # of read_only_limit_minutes: a window that is longer is worth two more steps; our estimate


@dataclass(frozen=True)
class Choice:
    """A method and why it is the one. `kept`: it stands on the site, so every run follows it."""

    method: str
    ground: str
    kept: bool = False


def choice(site: Site) -> Choice:
    """How this site's metadata are, or were, imported."""
    kept, asked = site.keep.load("method"), site.options.import_method
    if kept and (asked in ("auto", kept["method"]) or begun(site)):
        return Choice(kept["method"], kept["ground"], kept=True)
    if asked != "auto":
        return Choice(asked, "as import_method says")
    if state.on_own_database(site):
        return Choice(ONE_STEP, "moved earlier")
    for other in site.sites.all:
        before = other.keep.load("method") if other.name != site.name else None
        if before:  # two methods can treat the same broken list differently (registry 6.4)
            return Choice(before["method"], f"as on {other.name}: the same on every site")
    return _by_size(site)


def _by_size(site: Site) -> Choice:
    predicted, size = prediction.one_step(site), prediction.registry(site).size
    limit = site.options.read_only_limit_minutes
    if size is not None and size >= ONE_STEP_BYTES:
        return Choice(THREE_STEP, f"{size / 2**30:.0f} GiB, and one step is for less than {ONE_STEP_BYTES >> 30} GiB")
    said = f"in one step the import is predicted to take up to {predicted.work / 60:.1f} min ({predicted.ground})"
    if predicted.work > ONE_STEP_SHARE * limit * 60:
        return Choice(THREE_STEP, f"{said}, more than a quarter of read_only_limit_minutes ({limit})")
    return Choice(ONE_STEP, f"{said}, at most a quarter of read_only_limit_minutes ({limit})")


def begun(site: Site) -> bool:
    """Whether an import of the site has come so far that its method must stay."""
    if state.on_own_database(site) or state.open_window(site) or checks.import_runs(site):
        return True
    return bool(site.metadata_db.count("tags"))


def known(site: Site) -> str:
    """The method as far as it is known without looking at the registry; empty while it is not decided."""
    kept, asked = site.keep.load("method"), site.options.import_method
    return str(kept["method"]) if kept else "" if asked == "auto" else asked


def is_three_step(site: Site) -> bool:
    """Whether this site is imported in three steps."""
    return choice(site).method == THREE_STEP


def not_three_step(site: Site) -> str | None:
    """The rule by which steps one and three of the three-step import are not for a site."""
    chosen = choice(site)
    return None if chosen.method == THREE_STEP else f"{chosen.method}: {chosen.ground}"


def keep(site: Site) -> None:
    """From now on every run follows what was chosen."""
    chosen = choice(site)
    if not chosen.kept:
        site.keep.save("method", {"method": chosen.method, "ground": chosen.ground, "at": state.stamp()})


def change(site: Site) -> Change:
    """The same as a part of a plan, which is bound to the method alone."""
    chosen = choice(site)
    return Change("record", site.keep.path("method"), after=f"{chosen.method}: {chosen.ground}", binds=chosen.method)


@check("how the metadata are imported is settled", source="procedures 2.6 Choice", evidence="derived")
def method_is_settled(site: Site) -> Finding:
    """One step: pushes are refused for the whole import. Three steps: only while tags are read; it needs more time."""
    chosen, asked = choice(site), site.options.import_method
    found = f"{chosen.method}: {chosen.ground}"
    rows: list[dict[str, Any]] = [{"asked": asked, "method": chosen.method, "ground": chosen.ground}]
    if asked not in ("auto", chosen.method):
        return warning(
            f"{found} (import_method says {asked})",
            asked,
            remedy=f"the import was begun as {chosen.method} and is finished so",
            rows=rows,
        )
    return passed(found, "one-step or three-step", rows=rows)


@check("the read-only window is short enough", source="procedures 2.6", evidence="derived")
def window_is_short_enough(site: Site) -> Finding:
    """Pushes are refused for the whole of a one-step import; for step two of three, which step one makes short."""
    if state.on_own_database(site):
        return not_applicable(checks.MOVED)
    opened = state.open_window(site)
    if opened:
        return warning(
            f"pushes have been refused since {opened.opened}",
            "",
            remedy="apply this section to go on, or `run.undo` of its step read-only to let pushes in again",
        )
    predicted = None
    if is_three_step(site):
        if why := prediction.why_step_one_again(site):
            return later(f"step pre-import runs first: {why}")
        predicted, _ = prediction.step_two(site)
    predicted = predicted or prediction.one_step(site)
    expected = f"at most {site.options.read_only_limit_minutes} min"
    if not prediction.fits(site, predicted):
        return failed(
            f"predicted: {predicted}",
            expected,
            remedy="raise read_only_limit_minutes knowingly, or run offline garbage collection first (legacy mode "
            "only)" + ("" if is_three_step(site) else ", or import in three steps"),
        )
    return passed(f"predicted: {predicted}", expected)

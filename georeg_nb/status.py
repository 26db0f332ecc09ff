"""How the sites stand now, from any machine: nothing is changed, and no run needs to be there.

What is read-only, which jobs run by themselves, who holds the locks, whether image sync is held, and the next safe
command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from georeg_nb.display import Block, Code, Document, Facts, Headline, Table
from georeg_nb.errors import GeoregError
from georeg_nb.procedures import state
from georeg_nb.procedures.import_metadata import window
from georeg_nb.records import RUN_ID, base_folder
from georeg_nb.runbook.locks import describe, is_dead, read_holder


@dataclass(frozen=True)
class SiteStatus:
    """One site as it was found. `problem` says what could not be read."""

    name: str
    role: str
    nodes: tuple[dict[str, str], ...] = ()
    jobs: tuple[str, ...] = ()
    holder: dict[str, Any] | None = None
    sync_held: bool | None = None
    problem: str = ""

    @property
    def read_only(self) -> bool:
        return any("REFUSED" in node["pushes"] for node in self.nodes)


def look(site: Any) -> SiteStatus:
    """Look at one site through its read-only view. A site that does not answer is a result, not an error."""
    view = site.read_only_view()
    try:
        jobs = tuple(
            f"{job.name} on {node.name}" for node in view.nodes for job in node.jobs() if job.state == "running"
        )
        answers = _answers(view, bool(jobs))
        return SiteStatus(
            site.name,
            site.role,
            tuple(
                _node(site.name, package.node.name, config, answers.get(package.node.name))
                for package, config in state.registry_configs(view)
            ),
            jobs,
            read_holder(view),
            state.is_held(view) if site.role == "secondary" else None,
        )
    except GeoregError as error:
        return SiteStatus(site.name, site.role, problem=str(error).splitlines()[0])


def _answers(site: Any, changing: bool) -> dict[str, str]:
    """Node → what its registry does with a push: "REFUSED", "accepted" or "no answer". Empty while nothing is going on.

    After a kill in the middle of a reconfigure config.yml may say what the running registry does not know yet. So where
    a window was begun and not closed, or a job is at work, the registry itself is asked (an upload, cancelled at once).
    """
    begun = state.window(site)
    if not (changing or state.read_only_nodes(site) or (begun and not begun.closed)):
        return {}
    try:
        answers = window.upload_answers(site)
        return {name: {"refused": "REFUSED"}.get(answer, answer) for name, answer in answers.items()}
    except GeoregError:
        return {node.name: window.NO_ANSWER for node in site.registry_nodes}


def _node(site: str, name: str, config: Any, answer: str | None) -> dict[str, str]:
    if config is None:
        return {"site": site, "registry node": name, "metadata": "no registry configured", "pushes": "–"}
    return {
        "site": site,
        "registry node": name,
        "metadata": config.mode + ("" if config.collects_garbage else ", garbage collection held"),
        "pushes": _pushes("REFUSED" if config.read_only else "accepted", answer),
    }


def _pushes(configured: str, answer: str | None) -> str:
    if answer is None or answer == configured:
        return configured
    if answer.startswith(window.NO_ANSWER):
        return f"{answer}; by config.yml: {configured}"
    return f"{answer} (by config.yml, which the registry has not taken up yet: {configured})"


def next_safe_command(sites: list[SiteStatus], scenario: str, file: str) -> tuple[str, str]:
    """(command, why). The safest one that leads on; looking at a plan is always safe."""
    plan = f"georeg run {scenario} -f {file}"
    if unread := [site.name for site in sites if site.problem]:
        return f"georeg status -f {file}", f"{', '.join(unread)} could not be read: see to that first"
    holders = [site.holder for site in sites if site.holder]
    if alive := [holder for holder in holders if not is_dead(holder)]:
        return f"georeg status -f {file}", f"held by {describe(alive[0])}: let it work, or ask"
    if jobs := [job for site in sites for job in site.jobs]:
        return _resume(plan, holders), f"{', '.join(jobs)} goes on by itself; this follows it"
    if holders:
        return _resume(plan, holders), "a run ended without giving the sites back; this takes it up"
    if any(site.read_only or site.sync_held for site in sites):
        return plan, "work was begun and is not finished; the plan shows what is left"
    return plan, "a plan changes nothing"


def _resume(plan: str, holders: list[dict[str, Any]]) -> str:
    for holder in holders:
        run = str(holder.get("run"))
        if RUN_ID.fullmatch(run) and (base_folder() / run).is_dir():
            return f"{plan} --resume {run}"
    return plan  # its record is on another machine: a new run looks at the sites and does the rest


def report(sites: list[SiteStatus], scenario: str, file: str) -> Document:
    """The whole as one object to show."""
    command, why = next_safe_command(sites, scenario, file)
    quiet = not any(site.problem or site.read_only or site.jobs or site.holder or site.sync_held for site in sites)
    headline = Headline("passed", "Nothing is going on.") if quiet else Headline("warning", "Something is going on.")
    rows = [node for site in sites for node in site.nodes]
    facts = [(site.name, fact) for site in sites for fact in _facts(site)]
    blocks: list[Block] = [headline, Table(["site", "registry node", "metadata", "pushes"], rows), Facts(facts)]
    blocks += [Code(command, f"the next safe command ({why})")]
    data = {"sites": [dict(site.__dict__) for site in sites], "next": command, "why": why}
    return Document("status", blocks, data)


def _facts(site: SiteStatus) -> list[str]:
    if site.problem:
        return [f"COULD NOT BE READ: {site.problem}"]
    facts = [f"lock: {describe(site.holder)}" if site.holder else "lock: nobody"]
    facts.append(f"jobs: {', '.join(site.jobs)}" if site.jobs else "jobs: none running")
    if site.sync_held is not None:
        facts.append("image sync: HELD" if site.sync_held else "image sync: goes on")
    return facts

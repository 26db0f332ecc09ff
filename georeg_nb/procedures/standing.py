"""How the sites stand, in words: what a person must know after a failure."""

from __future__ import annotations

from georeg_nb.errors import GeoregError
from georeg_nb.procedures.state import is_held
from georeg_nb.site import Site


def describe(site: Site) -> str:
    """What a person must know about the site's registry: mode, whether pushes are refused, and running jobs.

    A node that cannot be read is named, and does not hide what the others say.
    """
    modes: dict[str, list[str]] = {}
    read_only, jobs, parts, unread = [], [], [], []
    for package in site.packages():
        node = package.node
        try:
            config = package.registry_config() if "registry" in node.roles else None
            if config:
                modes.setdefault(config.mode, []).append(node.name)
                read_only += [node.name] if config.read_only else []
            jobs += [f"{job.name} on {node.name}" for job in node.jobs() if job.state == "running"]
        except GeoregError as error:
            unread.append(f"the state of {node.name} could not be read ({error.message})")
    if len(modes) > 1:
        parts.append("; ".join(f"registry in {mode} mode on {', '.join(names)}" for mode, names in modes.items()))
    elif modes:
        parts.append(f"registry in {next(iter(modes))} mode")
    else:
        parts.append("no registry")
    if modes:
        parts.append(f"READ-ONLY on {', '.join(read_only)}: pushes are refused" if read_only else "pushes are accepted")
    if site.role == "secondary":
        parts.append(_sync_state(site))
    if jobs:
        parts.append(f"running by itself: {', '.join(jobs)}")
    return f"{site.name}: {', '.join([*filter(None, parts), *unread])}"


def _sync_state(site: Site) -> str:
    try:
        return "image sync is held" if is_held(site) else "image sync goes on"
    except GeoregError:
        return ""  # the node is named already


def describe_all(site: Site) -> str:
    """The same of every site, this one first: what one site's failure leaves the others in."""
    others = [other for other in site.sites.all if other.name != site.name]
    return "; ".join(describe(one) for one in (site, *others))

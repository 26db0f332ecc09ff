"""What GitLab and Geo say of a site: the check task, the site's entry and status, the main database."""

from __future__ import annotations

from collections.abc import Iterable

from georeg_nb.omnibus import Omnibus
from georeg_nb.site import Site

CHECK_TIMEOUT = 180.0  # seconds; Rails itself takes half a minute to start


def lines(found: Iterable[str]) -> str:
    """Several of a kind, one a line."""
    return "\n".join(found)


def words(answer: bool) -> str:
    """yes or no."""
    return "yes" if answer else "no"


def psql(site: Site, query: str) -> str:
    """The answer of GitLab's main database on this site. Raises CommandFailed."""
    return site.rails_node.run(["gitlab-psql", "-d", "gitlabhq_production", "-tAc", query]).stdout.strip()


def rails(site: Site) -> dict[str, str]:
    """`gitlab-rake gitlab:geo:check`, whatever it says, and the name that this site goes by."""
    done = site.rails_node.run(["gitlab-rake", "gitlab:geo:check"], check=False, timeout=CHECK_TIMEOUT)
    facts = {"geo.check": f"{done.stdout}\n{done.stderr}"}
    yml = Omnibus(site.rails_node).gitlab_yml()
    facts["geo.node_name"] = yml.geo_node_name
    facts["geo.replicates"] = words(yml.replication_enabled)
    return facts


def geo(site: Site) -> dict[str, str]:
    """The site's entry and status, asked of the primary."""
    primary = site.sites.primary
    entries = primary.gitlab.geo_sites()
    own = next((entry for entry in entries if entry.name == site.parameters.geo_site_name), None)
    facts = {
        "geo.names": lines(entry.name for entry in entries),
        "geo.registered": words(own is not None),
    }
    if own is None:
        return facts
    wanted = site.parameters.gitlab.url.rstrip("/")
    others = {one.parameters.gitlab.url.rstrip("/") for one in site.sites.all} - {wanted}
    facts["geo.url"] = "its own" if own.url.rstrip("/") == wanted else f"another: {own.url}"
    inner = own.internal_url.rstrip("/")
    facts["geo.internal_url"] = "of another site" if inner in others else "its own or none"
    status = primary.gitlab.geo_status(own.id)
    if status is not None:
        facts["geo.health"] = status.health
        facts["geo.reported"] = f"{status.updated_at:%Y-%m-%dT%H:%M:%S}" if status.updated_at else ""
        facts["geo.oauth_missing"] = words(status.data.get("missing_oauth_application") is True)
        facts["geo.unverified_images"] = str(status.images("verification_failed_count") or 0)
        facts["geo.failed_images"] = str(status.images("failed_count") or 0)
    return facts


def main_database(site: Site) -> dict[str, str]:
    """Whether GitLab's own database is a standby."""
    return {"main.in_recovery": words(psql(site, "SELECT pg_is_in_recovery()") == "t")}

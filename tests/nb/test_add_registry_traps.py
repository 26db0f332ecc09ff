"""What happens to somebody who follows the documentation word for word, and to the notebook.

By the lab's packaging, which is held to recordings of the real one. Source: procedures 1.3, 2.2 to 2.4, 4.2, 4.4.
"""

from __future__ import annotations

from typing import Any

import pytest
from world import NewWorld

from georeg_lab.omnibus.gitlab_rb import evaluate
from georeg_lab.omnibus.profiles import profile
from georeg_lab.omnibus.render import render
from georeg_lab.omnibus.ruby_values import RubyError
from georeg_nb.procedures.add_registry import blocks
from georeg_nb.procedures.import_metadata.blocks import database_block

RELEASES = ("18.7.7", "19.1.0")
TOKEN = "t" + "0123456789abcdef" * 2
START = "external_url 'https://gitlab-primary.example.com'\n"
SECONDARY = f"{START}roles(['geo_secondary_role'])\npostgresql['listen_address'] = '10.0.0.2'\n"

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.parametrize("release", RELEASES)]


def rendered(text: str, release: str) -> dict[str, Any]:
    return render(evaluate(text.encode(), "gitlab.rb"), profile(release)).shown()


def database(text: str, release: str) -> dict[str, Any]:
    found: dict[str, Any] = rendered(text, release)["config_yml"]["database"]
    return found


def ours(site: Any, *, enabled: bool) -> str:
    return f"{blocks.registry_block(site, site.omnibus)}\n{database_block(site, enabled=enabled)}\n"


def test_enabling_by_the_pages_hash_loses_the_external_database(release: str) -> None:
    """1.3 row 14: the page's tabs assign the whole hash."""
    site = NewWorld().primary
    before = START + ours(site, enabled=False)
    literally = database(before + "registry['database'] = { 'enabled' => true }\n", release)
    assert literally["enabled"] is True and literally["host"] == "/var/opt/gitlab/postgresql"
    by_notebook = database(START + ours(site, enabled=True), release)
    assert by_notebook["enabled"] is True and by_notebook["host"] == "db-primary.example.com"


def test_a_secondary_with_the_address_alone_gets_the_read_only_copy(release: str) -> None:
    """2.2, 4.4: the default host follows listen_address, which Geo has set; from 19.0 on it is opened at once."""
    site = NewWorld().secondary
    literally = database(SECONDARY + f"registry_external_url '{site.parameters.registry.url}'\n", release)
    assert literally["host"] == "10.0.0.2"
    assert literally["enabled"] == ("prefer" if release.startswith("19") else "false")
    by_notebook = database(SECONDARY + ours(site, enabled=False), release)
    assert by_notebook["host"] == "db-secondary.example.com" and by_notebook["enabled"] is False


def test_the_secret_of_the_page_has_no_effect(release: str) -> None:
    """2.4: registry['notification_secret'] is accepted and does nothing; what counts is the endpoint's name."""
    site = NewWorld().primary
    start = START + ours(site, enabled=True)
    array = "[{ 'name' => 'geo', 'url' => 'https://x.example.com', 'headers' => { 'Authorization' => ['t'] } }]"
    literally = rendered(
        f"{start}registry['notifications'] = {array}\nregistry['notification_secret'] = 't'\n", release
    )
    assert "registry_notification_secret" not in literally["gitlab_rails"]
    by_notebook = rendered(start + blocks.notifications_block(site, site.omnibus, TOKEN), release)
    assert by_notebook["gitlab_rails"]["registry_notification_secret"] == TOKEN
    (endpoint,) = by_notebook["config_yml"]["notifications"]["endpoints"]
    assert endpoint["name"] == "geo_event" and endpoint["headers"] == {"Authorization": [TOKEN]}


def test_a_header_that_is_no_array_stops_reconfigure(release: str) -> None:
    """2.4; 6 row 56."""
    site = NewWorld().primary
    start = START + ours(site, enabled=True)
    header = "registry['notifications'] = [{ 'name' => 'geo_event', 'headers' => { 'Authorization' => 't' } }]\n"
    with pytest.raises(RubyError, match="last"):
        rendered(start + header, release)
    rendered(start + blocks.notifications_block(site, site.omnibus, TOKEN), release)


def test_appending_to_notifications_that_nobody_set_stops_reconfigure(release: str) -> None:
    """4.2: reading the unset key creates an empty hash, which has no `+`."""
    site = NewWorld().primary
    start = START + ours(site, enabled=True)
    with pytest.raises(RubyError):
        rendered(
            start + "registry['notifications'] = registry['notifications'] + [{ 'name' => 'geo_event' }]\n", release
        )
    rendered(start + blocks.notifications_block(site, site.omnibus, TOKEN), release)


def test_a_second_array_drops_the_endpoints_of_others(release: str) -> None:
    """4.2: the page's array replaces the one that is there."""
    world = NewWorld()
    site = world.primary
    world.switch_on(site)
    other = {"name": "scanner", "url": "https://scanner.example.com", "maxretries": 3}
    site.endpoints = [other]
    world.render(site)
    theirs = "registry['notifications'] = [{ 'name' => 'scanner', 'url' => 'https://scanner.example.com' }]\n"
    page = "registry['notifications'] = [{ 'name' => 'geo_event', 'headers' => { 'Authorization' => ['t'] } }]\n"
    start = START + ours(site, enabled=True) + theirs

    def names(text: str) -> list[str]:
        return [one["name"] for one in rendered(text, release)["config_yml"]["notifications"]["endpoints"]]

    assert names(start + page) == ["geo_event"]
    assert names(start + blocks.notifications_block(site, site.omnibus, TOKEN)) == ["scanner", "geo_event"]


def test_a_registry_below_a_path_is_not_supported(release: str) -> None:
    """2.2; 6 row 57: found by the package, before anything is changed by a wrong address."""
    with pytest.raises(RubyError, match="Unsupported GitLab Registry external URL path"):
        rendered(START + "registry_external_url 'https://gitlab.example.com/registry'\n", release)

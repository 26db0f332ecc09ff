"""Why image sync is held: after a lossy import of the primary, Geo removes the secondary's good copies."""

from __future__ import annotations

import shutil
import time

import pytest
from observe import tags_on_disk
from workplace import Workplace

from georeg_lab.layout import inside
from georeg_lab.sites import LabSites

pytestmark = [pytest.mark.lab]
VICTIM = ("acme/tools", "latest")
HELD = "\ngitlab_rails['geo_registry_replication_enabled'] = false\n"


def lose_on_the_primary_alone(lab: LabSites) -> None:
    """The primary's revision link is gone: its import leaves the tag behind, while the secondary's copy is whole."""
    repository = lab.storage("primary") / "docker/registry/v2/repositories" / VICTIM[0]
    shutil.rmtree(repository / "_manifests/revisions")


def migrate_the_primary_by_hand(lab: LabSites) -> None:
    """What an operator in a hurry would type, without georeg."""
    root = lab.lab.node_root("primary")
    rb = inside(root, "/etc/gitlab/gitlab.rb")
    password = (lab.lab.secrets / "primary-registry-database").read_text().strip()
    database = (
        "\nregistry['database'] = { 'enabled' => %s, 'host' => '127.0.0.1', 'port' => "
        + str(lab.lab.ports.registry_database("primary"))
        + f", 'user' => 'registry', 'password' => '{password}', 'dbname' => 'registry', 'sslmode' => 'require' }}\n"
    )
    text = rb.read_text()
    rb.write_text(text + database % "false")
    lab.run("primary", "gitlab-ctl", "reconfigure")
    lab.run("primary", "gitlab-ctl", "registry-database", "migrate", "up")
    lab.run("primary", "gitlab-ctl", "registry-database", "import", "--log-to-stdout")
    rb.write_text(text + database % "true")
    lab.run("primary", "gitlab-ctl", "reconfigure")


def touch_the_repository(lab: LabSites) -> None:
    """An ordinary push into the repository, which makes Geo look at it."""
    from georeg_lab.images import image

    lab.registry_client("primary").push(VICTIM[0], image("a later push", "oci"), "later")


@pytest.mark.parametrize("held", [False, True], ids=["not held", "held"])
def test_geo_removes_good_copies_unless_sync_is_held(fresh_workplace: Workplace, held: bool) -> None:
    lab = fresh_workplace.lab
    lose_on_the_primary_alone(lab)
    assert VICTIM in tags_on_disk(lab, "secondary")
    if held:
        rb = inside(lab.lab.node_root("secondary"), "/etc/gitlab/gitlab.rb")
        rb.write_text(rb.read_text() + HELD)
        lab.run("secondary", "gitlab-ctl", "reconfigure")
    migrate_the_primary_by_hand(lab)
    touch_the_repository(lab)

    if held:
        time.sleep(8)  # several rounds of the log cursor and the sync: nothing may happen in them
        assert VICTIM in tags_on_disk(lab, "secondary")
    else:
        limit = time.monotonic() + 60
        while VICTIM in tags_on_disk(lab, "secondary") and time.monotonic() < limit:
            time.sleep(0.5)
        assert VICTIM not in tags_on_disk(lab, "secondary")

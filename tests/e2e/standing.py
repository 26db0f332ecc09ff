"""How both sites stand while runs are ended at every point, and that `georeg status` says so."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Mapping

import psutil
from observe import tags_in_database, tags_on_disk
from workplace import PARAMETERS, Outcome, Workplace, outcomes

from georeg_lab.images import LOST
from georeg_nb.runbook.locks import LOCK

COMPLETE = {"done", "no-op", "skipped by rule"}
SITES = ("primary", "secondary")

Tags = Mapping[tuple[str, str], str]


def all_tags(workplace: Workplace) -> dict[str, Tags]:
    return {site: tags_on_disk(workplace.lab, site) for site in SITES}


def imports_started(workplace: Workplace) -> Counter[str]:
    """How often `gitlab-ctl registry-database import` was called on each site."""
    return Counter(site for site, _ in import_commands(workplace))


def import_commands(workplace: Workplace) -> list[tuple[str, str]]:
    """(site, step) of each of these calls, oldest first; the step of a one-step import is empty."""
    log = workplace.lab.lab.dir / "commands.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    calls = [e for e in entries if e["argv"][:3] == ["gitlab-ctl", "registry-database", "import"]]
    return [(e["node"], "".join(a.removeprefix("--step-") for a in e["argv"] if "--step-" in a)) for e in calls]


def importers(workplace: Workplace, site: str) -> list[psutil.Process]:
    """The processes of a site that import: the registry's own, not the job that waits for it."""
    found, root = [], str(workplace.lab.lab.node_root(site))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if (
                "import" in words
                and "georeg_lab.registry" in words
                and root in process.environ().get("GEOREG_NODE_ROOT", "")
            ):
                found.append(process)
    return found


def keep(workplace: Workplace, site: str, name: str) -> dict[str, object]:
    """What georeg keeps on a site."""
    path = workplace.lab.lab.node_root(site) / f"var/lib/georeg/keep/migrate-legacy/{name}.json"
    return dict(json.loads(path.read_text()))


def refuses_pushes(workplace: Workplace, site: str) -> bool:
    """What the site's registry really does with an upload."""
    client = workplace.lab.registry_client(site)
    answer = client.request("POST", "/v2/lab/canary/blobs/uploads/", "repository:lab/canary:pull,push")
    if answer.status_code == 202:
        client.request("DELETE", answer.headers["Location"], "repository:lab/canary:pull,push")
    assert answer.status_code in (202, 405), answer.text
    return answer.status_code == 405


def assert_status_is_true(workplace: Workplace) -> str:
    """`georeg status` says of every site's pushes what its registry does. Returns what it said."""
    settled(workplace)
    status = workplace.georeg("status", "-f", PARAMETERS)
    assert status.status == 0, status.output
    for site in SITES:
        line = next(line for line in status.stdout.splitlines() if re.match(rf"{site} +{site}-node ", line))
        assert ("REFUSED" in line) == refuses_pushes(workplace, site), status.output
        assert ("accepted" in line) != ("REFUSED" in line), status.output
    return status.stdout


def settled(workplace: Workplace) -> None:
    """Wait for the reconfigures that went on by themselves, so that the answer is of one moment. Imports may go on."""
    limit = time.monotonic() + 60
    while any("reconfigure" in words for site in SITES for words in jobs_at_work(workplace, site)):
        assert time.monotonic() < limit
        time.sleep(0.1)


def jobs_at_work(workplace: Workplace, site: str) -> list[list[str]]:
    """Command lines of the shells that wait for georeg's jobs on a site."""
    root, found = str(workplace.lab.lab.node_root(site)), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "georeg-job" in words and any(word.startswith(root) for word in words):
                found.append(words)
    return found


def assert_complete(
    workplace: Workplace, last: Outcome, before: Mapping[str, Tags], imports: Mapping[str, int]
) -> None:
    """Everything is done, nothing was lost, nothing is left refused or held, and no import was started too often."""
    assert last.status == 0, last.output
    assert set(outcomes(last.ledger).values()) <= COMPLETE
    for site, tags in before.items():
        expected = {key: digest for key, digest in tags.items() if key != LOST}
        found = tags_in_database(workplace.lab, site)
        assert {key: found.get(key) for key in expected} == expected
        window = keep(workplace, site, "window")
        assert window["closed"], window
        assert window["outcome"] == "migrated"
        assert not (workplace.lab.lab.node_root(site) / LOCK.lstrip("/")).exists()
    assert imports_started(workplace) == imports
    assert "Nothing is going on." in assert_status_is_true(workplace)

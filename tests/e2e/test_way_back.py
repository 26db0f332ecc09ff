"""Forward with garbage collection held, compared at every stage, closed by a push, and back to legacy metadata."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml
from observe import tags_on_disk
from workplace import Outcome, Workplace, changes, outcomes

from georeg_lab.images import LOST, image
from georeg_lab.registry_client import RegistryClient
from georeg_nb.omnibus import REGISTRY_CONFIG

pytestmark = [pytest.mark.lab, pytest.mark.matrix, pytest.mark.timeout(900)]
COMPLETE = {"done", "no-op", "skipped by rule"}
SITES = ("primary", "secondary")


def run(workplace: Workplace, scenario: str, *arguments: str) -> Outcome:
    return workplace.georeg(
        "run", scenario, "-f", f"parameters/lab/{scenario}.yml", "-p", "canary_project=", *arguments
    )


def held(workplace: Workplace, site: str) -> bool:
    """Whether the site's registry was started without garbage collection."""
    config = workplace.lab.lab.node_root(site) / REGISTRY_CONFIG.lstrip("/")
    return bool(yaml.safe_load(config.read_text()).get("gc", {}).get("disabled"))


def hold_collection(sites: dict[str, Any]) -> None:
    for site in (sites["primary"], *sites["secondaries"]):
        site["registry"]["hold_garbage_collection"] = True


def answers(outcome: Outcome) -> dict[str, str]:
    """Check → verdict, as asked last."""
    return {entry["check"]: entry["verdict"] for entry in outcome.ledger if entry["event"] == "check"}


def wait_until_gone(client: RegistryClient, repository: str, tag: str) -> None:
    """Geo removes it there as well: by the event, or with the next sync of everything."""
    limit = time.monotonic() + 120
    while client.digest(repository, tag) is not None:
        assert time.monotonic() < limit, f"{repository}:{tag} is still there"
        time.sleep(0.5)


def test_forward_closed_by_a_push_and_back(fresh_workplace: Workplace) -> None:
    workplace, lab = fresh_workplace, fresh_workplace.lab
    workplace.change_sites(hold_collection)
    before = {site: workplace.tags(site) for site in SITES}
    links = {site: tags_on_disk(lab, site) for site in SITES}

    legacy = run(workplace, "verify-replication")
    assert legacy.status == 0, legacy.output
    assert (legacy.record / "junit.xml").exists() and (legacy.record / "tables/same_images.csv").exists()

    # forward: all is done but the sign-off, which "all" never approves
    moved = run(workplace, "migrate-legacy", "--approve", "all")
    assert moved.status == 5, moved.output
    waiting = {step for step, outcome in outcomes(moved.ledger).items() if outcome not in COMPLETE}
    assert waiting == {f"sign-off[{site}]/sign-off" for site in SITES}
    assert all(held(workplace, site) for site in SITES)

    on_database = run(workplace, "verify-replication")
    assert on_database.status == 0, on_database.output
    assert changes(on_database.ledger) == []

    # a push closes the way back, and it is said which
    client = lab.registry_client("primary")
    client.push("acme/tools", image("pushed since", "oci"), "since")
    refused = run(workplace, "revert-to-legacy", "--approve", "all")
    assert refused.status == 3, refused.output
    assert changes(refused.ledger) == []
    (row,) = json.loads((refused.record / "tables/way_back_is_open.primary.json").read_text())
    assert (row["repository"], row["pushed"]) == ("acme/tools", 1) and row["first (UTC)"]
    (tag,) = json.loads((refused.record / "tables/changed_since.primary.json").read_text())
    assert (tag["tag"], tag["what"]) == ("since", "pushed")

    # signed off on one site: garbage collection runs there; the way is still open, as no day has passed
    signed = run(workplace, "migrate-legacy", "--approve", "sign-off[primary]/sign-off")
    assert outcomes(signed.ledger)["sign-off[primary]/sign-off"] == "done", signed.output
    assert (held(workplace, "primary"), held(workplace, "secondary")) == (False, True)

    # without the push it is open; the primary goes first
    client.delete_tag("acme/tools", "since")
    wait_until_gone(lab.registry_client("secondary"), "acme/tools", "since")
    half = run(workplace, "revert-to-legacy", "--approve", "hold", "--approve", "primary.revert")
    assert outcomes(half.ledger)["primary.revert/back-to-legacy"] == "done", half.output
    mixed = run(workplace, "verify-replication")
    assert answers(mixed)["same_images"] == "passed", mixed.output
    assert mixed.status == 6 and answers(mixed)["geo_reports_synced"] == "failed", "image sync is held"

    back = run(workplace, "revert-to-legacy", "--approve", "all")
    assert back.status == 0, back.output
    assert set(outcomes(back.ledger).values()) <= COMPLETE
    assert {site: workplace.tags(site) for site in SITES} == before
    assert {site: tags_on_disk(lab, site) for site in SITES} == links
    assert LOST in links["primary"] and not any(held(workplace, site) for site in SITES)

    again = run(workplace, "revert-to-legacy", "--approve", "all")
    assert again.status == 0, again.output
    assert changes(again.ledger) == []

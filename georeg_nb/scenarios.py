"""The scenarios: one starting point, one notebook, a list of sections each. Source: procedures 1.2."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from georeg_nb.errors import ParametersError, Problem
from georeg_nb.parameters import (
    AddRegistryParameters,
    AssessSitesParameters,
    DiagnoseParameters,
    MigrateLegacyParameters,
    RevertToLegacyParameters,
    ScenarioParameters,
    VerifyReplicationParameters,
)
from georeg_nb.procedures import revert, shell
from georeg_nb.procedures.add_registry import DATABASE, ENABLE, GUARD_EMPTY, NOTIFICATIONS, REPLICATION
from georeg_nb.procedures.assess import ASSESS
from georeg_nb.procedures.diagnosis import DIAGNOSE
from georeg_nb.procedures.guard import ANSWERS, GUARD, PREFLIGHT
from georeg_nb.procedures.hold_sync import HOLD, RELEASE
from georeg_nb.procedures.import_metadata import IMPORT
from georeg_nb.procedures.import_metadata.way_back import SIGN_OFF
from georeg_nb.procedures.verify_replication import VERIFY, VERIFY_AS_THEY_ARE, VERIFY_NEW
from georeg_nb.runbook import Scenario, Section, StartingPoint
from georeg_nb.site import Site, Sites


def primary(sites: Sites) -> list[Site]:
    """The primary alone."""
    return [sites.primary]


def secondaries(sites: Sites) -> list[Site]:
    """Every secondary."""
    return sites.secondaries


def everywhere(sites: Sites) -> list[Site]:
    """All sites, the primary first."""
    return sites.all


ASSESS_SITES = Scenario(
    "assess-sites",
    "Assess two Geo sites: which scenario fits",
    StartingPoint(geo="set up or not", primary="any", secondary="any"),
    (
        Section("assess", ASSESS, everywhere),
        Section("preflight", PREFLIGHT, everywhere),
    ),
)
MIGRATE_LEGACY = Scenario(
    "migrate-legacy",
    "Migrate legacy registry metadata on Geo sites",
    StartingPoint(
        geo="set up, healthy, images replicated", primary="legacy with images", secondary="legacy with images"
    ),
    (
        Section("guard", GUARD, everywhere),
        Section("hold", HOLD, secondaries, after=("guard",)),
        Section("secondary.import", IMPORT, secondaries, after=("hold",)),
        Section("primary.import", IMPORT, primary, after=("hold", "secondary.import")),
        Section("release", RELEASE, secondaries, after=("secondary.import", "primary.import")),
        Section("verify", VERIFY, primary, after=("release",)),
        Section("sign-off", SIGN_OFF, everywhere, after=("verify",)),
    ),
    place=shell.place,
)

VERIFY_REPLICATION = Scenario(
    "verify-replication",
    "Verify that Geo sites hold the same images",
    StartingPoint(geo="set up", primary="legacy or on its own database", secondary="legacy or on its own database"),
    (
        Section("answers", ANSWERS, everywhere),
        Section("verify", VERIFY_AS_THEY_ARE, primary, after=("answers",)),
    ),
    place=shell.place,
)

REVERT_TO_LEGACY = Scenario(
    "revert-to-legacy",
    "Take Geo sites back to legacy registry metadata",
    StartingPoint(
        geo="set up", primary="moved by migrate-legacy", secondary="moved by migrate-legacy; nothing pushed since"
    ),
    (
        Section("way-back", revert.WAY_BACK, everywhere),
        Section("hold", revert.HOLD, secondaries, after=("way-back",)),
        Section("primary.revert", revert.REVERT, primary, after=("hold",)),
        Section("secondary.revert", revert.REVERT, secondaries, after=("hold", "primary.revert")),
        Section("release", revert.RELEASE, secondaries, after=("primary.revert", "secondary.revert")),
        Section("verify", VERIFY_AS_THEY_ARE, primary, after=("release",)),
    ),
    place=shell.place,
)


ADD_REGISTRY = Scenario(
    "add-registry-to-geo-sites",
    "Add a container registry to Geo sites",
    StartingPoint(geo="set up, healthy", primary="no registry, or one without images", secondary="no registry"),
    (
        Section("guard", GUARD_EMPTY, everywhere),
        Section("enable", ENABLE, everywhere, after=("guard",)),
        Section("primary.database", DATABASE, primary, after=("enable",)),
        Section("secondary.database", DATABASE, secondaries, after=("enable",)),
        Section("notifications", NOTIFICATIONS, primary, after=("primary.database",)),
        Section("replication", REPLICATION, secondaries, after=("secondary.database", "notifications")),
        Section("verify", VERIFY_NEW, primary, after=("replication",)),
    ),
    place=shell.place,
)


DIAGNOSE_SITES = Scenario(
    "diagnose",
    "Find known failure symptoms",
    StartingPoint(geo="whatever it is", primary="whatever it is", secondary="whatever it is"),
    (Section("diagnose", DIAGNOSE, primary),),
)


class Entry(NamedTuple):
    """A scenario with its notebook and the model of its parameters."""

    scenario: Scenario
    notebook: str
    parameters: type[ScenarioParameters]


SCENARIOS: dict[str, Entry] = {
    ADD_REGISTRY.id: Entry(ADD_REGISTRY, "02-add-registry-to-geo-sites.ipynb", AddRegistryParameters),
    ASSESS_SITES.id: Entry(ASSESS_SITES, "00-assess-sites.ipynb", AssessSitesParameters),
    MIGRATE_LEGACY.id: Entry(MIGRATE_LEGACY, "05-migrate-legacy-metadata.ipynb", MigrateLegacyParameters),
    DIAGNOSE_SITES.id: Entry(DIAGNOSE_SITES, "08-diagnose.ipynb", DiagnoseParameters),
    REVERT_TO_LEGACY.id: Entry(REVERT_TO_LEGACY, "07-revert-to-legacy.ipynb", RevertToLegacyParameters),
    VERIFY_REPLICATION.id: Entry(VERIFY_REPLICATION, "06-verify-replication.ipynb", VerifyReplicationParameters),
}


def find(scenario: str) -> Scenario:
    """The scenario of that id. Raises ParametersError with the ids there are."""
    if scenario in SCENARIOS:
        return SCENARIOS[scenario].scenario
    close = difflib.get_close_matches(scenario, SCENARIOS, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(SCENARIOS)}"
    raise ParametersError([Problem(f"there is no scenario {scenario!r}", "scenario", suggestion=hint)])

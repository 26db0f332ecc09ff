"""The whole scenario over two sites in memory: done, done twice, and interrupted or failing at every point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from world import LOSSY, SECTIONS, TAGS, World

from georeg_nb import gitlab_rb, redaction
from georeg_nb.errors import GeoregError, PrerequisiteError, StepFailed, VerificationDiffers
from georeg_nb.ledger import verdict
from georeg_nb.omnibus import GITLAB_RB
from georeg_nb.procedures import standing, state
from georeg_nb.procedures.import_metadata import checks

METHODS = ("one-step", "three-step")
ORIGINAL = b"external_url 'https://gitlab.example.com'\n"


pytestmark = pytest.mark.usefixtures("impatient")


def run_all(
    world: World, tmp: Path, *, approve: tuple[str, ...] = ("all",), sections: tuple[str, ...] = SECTIONS
) -> Any:
    run = world.open(tmp, approve=approve)
    try:
        for section in sections:
            run.check(section)
            run.apply(section)
        run.summary()
        return verdict(run.ledger.entries())
    finally:
        run.close()


def outcomes(result: Any) -> dict[str, str]:
    return {outcome.step: outcome.outcome for outcome in result.outcomes}


def assert_migrated(world: World, lost: frozenset[tuple[str, str]] = frozenset()) -> None:
    expected = {key: digest for key, digest in TAGS.items() if key not in lost}
    for site in world.sites.all:
        assert site.database.tags == expected
        assert state.on_own_database(site) and not state.read_only_nodes(site)
        assert list(gitlab_rb.blocks(site.node.files[GITLAB_RB].decode())) == [state.DATABASE]
        assert site.omnibus.lockfiles().database and not site.omnibus.lockfiles().filesystem
    assert not state.is_held(world.secondary)


def assert_as_before(site: Any, *, connected: bool = True) -> None:
    """Legacy, writable, with the lock files that lay there."""
    assert state.is_legacy(site) and not state.read_only_nodes(site)
    blocks = list(gitlab_rb.blocks(site.node.files[GITLAB_RB].decode()))
    assert [name for name in blocks if name != state.HOLD] == ([state.DATABASE] if connected else [])
    assert not site.omnibus.lockfiles().database
    assert not site.keep.load("enabled")


def test_a_plan_changes_nothing(tmp_path: Path) -> None:
    world = World()
    before = [dict(site.node.files) for site in world.sites.all]
    result = run_all(world, tmp_path, approve=())
    assert [site.node.files for site in world.sites.all] == before
    assert [site.node.started for site in world.sites.all] == [[], []]
    assert world.events == []
    assert set(outcomes(result).values()) <= {"not approved", "no-op", "skipped by rule"}
    assert result.exit_code == 0


@pytest.mark.parametrize("method", METHODS)
def test_all_approved_ends_migrated_and_a_second_run_has_nothing_to_do(method: str, tmp_path: Path) -> None:
    world = World(canary_project="acme/app", import_method=method)
    first = run_all(world, tmp_path)
    assert first.exit_code == 0
    assert set(outcomes(first).values()) <= {"done", "no-op", "skipped by rule"}
    assert_migrated(world)
    started = [list(site.node.started) for site in world.sites.all]
    second = run_all(world, tmp_path)
    assert second.exit_code == 0
    assert set(outcomes(second).values()) <= {"no-op", "skipped by rule"}
    assert [site.node.started for site in world.sites.all] == started


def test_the_order_of_what_is_done_on_the_nodes(tmp_path: Path) -> None:
    world = World()
    run_all(world, tmp_path)
    reconfigure, tool = "gitlab-ctl reconfigure", "gitlab-ctl registry-database"
    imports = [
        reconfigure,  # connect
        f"{tool} migrate up",
        f"{tool} migrate up --dry-run",
        reconfigure,  # read-only
        f"{tool} import --log-to-stdout --row-count",
        reconfigure,  # enable, and let pushes in
    ]
    assert world.primary.node.started == imports
    assert world.secondary.node.started == [reconfigure, *imports, reconfigure]


def test_the_order_in_three_steps(tmp_path: Path) -> None:
    world = World(import_method="three-step")
    run_all(world, tmp_path)
    command = "gitlab-ctl registry-database import --step-{} --log-to-stdout --row-count"
    assert world.primary.node.started[3:] == [
        command.format("one"),
        "gitlab-ctl reconfigure",  # read-only
        command.format("two"),
        "gitlab-ctl reconfigure",  # enable, and let pushes in
        command.format("three"),
    ]


def test_an_approval_survives_what_earlier_steps_change(tmp_path: Path) -> None:
    """Also in a new process, which meets the password in gitlab.rb before it resolves the reference."""
    world = World()
    digests: list[dict[str, str]] = []
    for sections in (SECTIONS[:3], SECTIONS[:3]):
        redaction.forget_all()
        run = world.open(tmp_path)
        for section in sections:
            run.apply(section)
        entries = run.ledger.entries()
        digests.append({e["step"]: e["digest"] for e in entries if e["event"] == "step.planned"})
        run.close()
        run_all(
            world,
            tmp_path,
            approve=("hold", "secondary.import/backup", "secondary.import/connect-database"),
            sections=SECTIONS[:3],
        )
    assert "secondary.import/enable-database" in digests[1]
    assert {step: digests[0][step] for step in digests[1]} == digests[1]


def test_the_password_is_in_gitlab_rb_and_nowhere_in_the_record(tmp_path: Path) -> None:
    world = World()
    run_all(world, tmp_path)
    assert b"'password' => 'world-password'" in world.primary.node.files[GITLAB_RB]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"world-password" not in path.read_bytes(), path


# losses


def lossy_world(**options: Any) -> World:
    world = World(**options)
    for site in world.sites.all:
        site.missing.add(TAGS["acme/old", "lossy"])
    world.lost = {("acme/old", "lossy")}
    return world


def test_a_tag_that_would_be_lost_stops_everything_before_pushes_are_refused(tmp_path: Path) -> None:
    world = lossy_world()
    with pytest.raises(PrerequisiteError, match="acme/old:lossy"):
        run_all(world, tmp_path)
    assert_as_before(world.secondary, connected=False)
    assert world.primary.node.started == []


def test_a_loss_that_is_agreed_to_is_recorded_and_its_checksum_computed_anew(tmp_path: Path) -> None:
    world = lossy_world(accept_losses=[LOSSY])
    result = run_all(world, tmp_path)
    assert result.exit_code == 0
    assert_migrated(world, frozenset({("acme/old", "lossy")}))
    assert world.primary.node.started[-1] == "gitlab-rails runner ContainerRepository.find(7).replicator.verify"
    assert world.primary.keep.load("import-report")["lost"] == {LOSSY: "broken: why"}
    world.options = world.options.model_copy(update={"accept_losses": []})
    assert run_all(world, tmp_path).exit_code == 0  # it was agreed to then; nothing is asked again


def test_a_loss_that_nobody_foresaw_lets_pushes_in_again_and_is_named(tmp_path: Path) -> None:
    world = World()
    world.lost = {("acme/app", "1.0")}
    with pytest.raises(StepFailed, match=r"acme/app:1.0 \(missing; broken: why\)") as caught:
        run_all(world, tmp_path)
    assert "pushes are accepted again" in str(caught.value)
    assert_as_before(world.secondary)
    assert state.is_held(world.secondary)
    assert world.primary.node.started == []


# failures: the node is as it was, and a later run goes on

FAILURES = [
    ("hold-image-sync", "1"),
    ("hold-image-sync", "silent"),
    ("connect-database", "1"),
    ("connect-database", "silent"),
    ("migrate-schema", "1"),
    ("migrate-schema", "not enabled"),
    ("read-only", "1"),
    ("read-only", "silent"),
    ("secondary-import", "1"),
    ("secondary-import", "lost"),
    ("secondary-import", "not enabled"),
    ("enable-database", "1"),
    ("enable-database", "silent"),
    ("release-image-sync", "1"),
]


@pytest.mark.parametrize(("job", "how"), FAILURES)
def test_a_step_that_fails_leaves_the_site_writable_and_the_next_run_finishes(
    job: str, how: str, tmp_path: Path
) -> None:
    world = World()
    world.fail = {job: how}
    with pytest.raises(StepFailed):
        run_all(world, tmp_path)
    assert not state.read_only_nodes(world.secondary)
    if job != "release-image-sync":
        assert_as_before(world.secondary, connected=job not in ("hold-image-sync", "connect-database"))
        assert world.primary.node.started == []
    assert not any("backups" in name for name in world.secondary.node.files)
    world.fail = {}
    result = run_all(world, tmp_path, approve=("all", "secondary.import/clear-half-import"))
    assert result.exit_code == 0
    assert_migrated(world)


def test_an_import_that_died_unwatched_lets_pushes_in_and_waits_for_its_approval(tmp_path: Path) -> None:
    world = World()
    world.fail = {"secondary-import": "running"}
    world._import = lambda *_: _raise(Killed())  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run_all(world, tmp_path)
    world.secondary.node.kept_jobs["secondary-import"].state = "lost"
    world.secondary.database.tags.update(list(TAGS.items())[:2])
    world.fail = {}
    del world._import
    assert state.read_only_nodes(world.secondary)
    result = run_all(world, tmp_path)
    assert outcomes(result)["secondary.import/let-pushes-in"] == "done"
    assert outcomes(result)["secondary.import/clear-half-import"] == "not approved"
    assert_as_before(world.secondary)
    assert run_all(world, tmp_path, approve=("all", "secondary.import/clear-half-import")).exit_code == 0
    assert_migrated(world)


def _raise(error: BaseException) -> Any:
    raise error


def test_everything_after_an_import_that_died_can_be_approved_at_once(tmp_path: Path) -> None:
    world = World()
    world.fail = {"secondary-import": "running"}
    world._import = lambda *_: _raise(Killed())  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run_all(world, tmp_path)
    world.secondary.node.kept_jobs["secondary-import"].state = "lost"
    world.secondary.database.tags.update(list(TAGS.items())[:2])
    world.fail = {}
    del world._import
    assert run_all(world, tmp_path, approve=("all", "secondary.import/clear-half-import")).exit_code == 0
    assert_migrated(world)


def test_a_half_finished_import_waits_for_its_own_approval(tmp_path: Path) -> None:
    world = World()
    world.fail = {"secondary-import": "1"}
    with pytest.raises(StepFailed):
        run_all(world, tmp_path)
    assert world.secondary.database.tags
    world.fail = {}
    result = run_all(world, tmp_path)
    assert outcomes(result)["secondary.import/clear-half-import"] == "not approved"
    assert result.exit_code == 5
    assert_as_before(world.secondary)
    assert world.primary.node.started == []


def test_tags_that_are_not_of_our_snapshot_are_never_emptied(tmp_path: Path) -> None:
    world = World()
    world.fail = {"secondary-import": "1"}
    with pytest.raises(StepFailed):
        run_all(world, tmp_path)
    world.secondary.database.tags["acme/new", "pushed"] = "sha256:" + "9" * 64
    world.fail = {}
    with pytest.raises(PrerequisiteError):
        run_all(world, tmp_path, approve=("all", "secondary.import/clear-half-import"))
    assert ("acme/new", "pushed") in world.secondary.database.tags


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda site: site.database.traces.append("tags were moved in it"), "tags were moved"),
        (lambda site: site.keep.save("enabled", {"at": "2026-01-01"}), "enabled once"),
        (lambda site: setattr(site, "process_mode", "database"), "not in legacy mode"),
    ],
)
def test_what_forbids_to_empty_the_tags(breaks: Callable[[Any], Any], says: str, tmp_path: Path) -> None:
    world = World()
    world.fail = {"secondary-import": "1"}
    with pytest.raises(StepFailed):
        run_all(world, tmp_path)
    assert checks.half_import_is_ours(world.secondary).verdict == "passed"
    breaks(world.secondary)
    finding = checks.half_import_is_ours(world.secondary)
    assert finding.verdict == "failed" and says in finding.found


class Killed(BaseException):
    """The process is gone at this very point: nothing of it runs any more, not even its clean-up."""


JOBS = [
    "hold-image-sync",
    "connect-database",
    "migrate-schema",
    "read-only",
    "secondary-import",
    "enable-database",
    "primary-import",
    "release-image-sync",
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("method", "job"),
    [
        *(("one-step", job) for job in JOBS),
        *(("three-step", job) for job in ("--step-one", "read-only", "--step-two", "enable-database", "--step-three")),
    ],
)
def test_killed_around_any_job_and_started_again(method: str, job: str, when: str, tmp_path: Path) -> None:
    world = World(import_method=method)
    perform, killed = world.perform, []

    def killing(site: Any, name: str, argv: tuple[str, ...], node: Any) -> Any:
        if (job in name or job in argv) and not killed:
            killed.append(name)
            if when == "after":
                site.node.kept_jobs[name] = perform(site, name, argv, node)
            raise Killed
        return perform(site, name, argv, node)

    world.perform = killing  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run_all(world, tmp_path)
    described = standing.describe(world.secondary)
    if state.read_only_nodes(world.secondary):
        assert "READ-ONLY" in described
    result = run_all(world, tmp_path)
    assert result.exit_code == 0
    assert_migrated(world)
    for site in world.sites.all:
        assert sum("import" in line for line in site.node.started) <= (4 if method == "three-step" else 2)


def test_an_import_that_still_runs_is_followed_and_never_started_twice(tmp_path: Path) -> None:
    world = World()
    world.fail = {"secondary-import": "running"}
    original = world._import

    def killed_while_following(*arguments: Any) -> Any:
        world._import = original  # type: ignore[method-assign]
        raise Killed

    world._import = killed_while_following  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run_all(world, tmp_path)
    assert checks.import_runs(world.secondary)
    assert "secondary-import" in standing.describe(world.secondary)
    result = run_all(world, tmp_path)
    assert result.exit_code == 0
    assert sum("import" in line for line in world.secondary.node.started) == 1


# read-only, proven


def test_a_registry_that_only_says_it_is_read_only_is_found(tmp_path: Path) -> None:
    world = World()
    world.secondary.ignores_read_only = True
    with pytest.raises(StepFailed, match="upload accepted on secondary-node"):
        run_all(world, tmp_path)
    assert_as_before(world.secondary)
    assert not any("import" in line for line in world.secondary.node.started)


def test_lock_files_are_put_back_as_they_lay(tmp_path: Path) -> None:
    world = World()
    world.secondary.lock("filesystem")
    world.lost = {("acme/app", "1.0")}
    with pytest.raises(StepFailed):
        run_all(world, tmp_path)
    found = world.secondary.omnibus.lockfiles()
    assert (found.database, found.filesystem) == (False, True)


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda world: world.secondary.database.sessions.append("somebody"), "somebody"),
        (lambda world: world.secondary.database.tags.update({("x", "y"): "sha256:z"}), "1 tags"),
        (lambda world: _limit(world, 1), "read_only_limit_minutes"),
    ],
)
def test_what_keeps_the_window_shut(breaks: Callable[[World], Any], says: str, tmp_path: Path) -> None:
    world = World()
    run_all(world, tmp_path, approve=("hold", "secondary.import/connect-database"), sections=SECTIONS[:2])
    breaks(world)
    with pytest.raises(PrerequisiteError) as caught:
        run_all(world, tmp_path)
    assert says in str(caught.value)
    assert not state.read_only_nodes(world.secondary)


def _limit(world: World, minutes: int) -> None:
    world.options = world.options.model_copy(update={"read_only_limit_minutes": minutes})


# hold and release


def test_a_sync_that_runs_is_waited_for(tmp_path: Path) -> None:
    world = World()
    world.syncs_running = 3
    answers = iter([3, 3, 3, 2, 1, 0, 0, 0, 0])
    world.secondary.node.commands["gitlab-rails runner puts Sidekiq"] = lambda: f"{next(answers, 0)}\n"
    run_all(world, tmp_path, sections=("guard", "hold"))
    assert any("waiting for" in line for line in world.observer.told)


def test_the_release_waits_for_both_snapshots(tmp_path: Path) -> None:
    world = World()
    run_all(world, tmp_path, sections=SECTIONS[:4])
    assert state.is_held(world.secondary)
    del world.primary.database.tags["acme/app", "latest"]
    with pytest.raises(GeoregError, match=r"does not equal its snapshot|not as in the snapshot"):
        run_all(world, tmp_path)
    assert state.is_held(world.secondary)
    assert ("acme/app", "latest") in world.secondary.database.tags


def test_what_was_pushed_meanwhile_does_not_stop_the_release(tmp_path: Path) -> None:
    world = World()
    run_all(world, tmp_path, sections=SECTIONS[:4])
    digest = "sha256:" + "7" * 64
    world.primary.database.tags.update({("acme/app", "latest"): digest, ("acme/app", "2.0"): digest})
    world.primary.database.pushed_later = {("acme/app", "latest"), ("acme/app", "2.0")}
    assert run_all(world, tmp_path).exit_code == 0
    assert world.secondary.database.tags == world.primary.database.tags


def test_the_hold_cannot_be_undone_between_the_imports(tmp_path: Path) -> None:
    world = World()
    run_all(world, tmp_path, sections=SECTIONS[:3])
    run = world.open(tmp_path)
    with pytest.raises(StepFailed, match="must stay held"):
        run.undo("hold-image-sync")
    run.close()


# the ways back


def test_undo_of_read_only_lets_pushes_in(tmp_path: Path) -> None:
    world = World()
    run_all(world, tmp_path, approve=("hold", *(f"secondary.import/{name}" for name in EARLY)), sections=SECTIONS[:3])
    assert state.read_only_nodes(world.secondary)
    run = world.open(tmp_path)
    run.undo("secondary.import/read-only")
    run.close()
    assert_as_before(world.secondary)
    assert state.window(world.secondary).outcome == "given up"  # type: ignore[union-attr]


EARLY = ("backup", "connect-database", "migrate-schema", "read-only", "snapshot")


def test_the_quick_way_back_while_nothing_was_pushed(tmp_path: Path) -> None:
    world = World()
    run_all(world, tmp_path, sections=SECTIONS[:3])
    run = world.open(tmp_path)
    run.undo("secondary.import/enable-database")
    run.undo("secondary.import/connect-database")
    run.close()
    assert_as_before(world.secondary, connected=False)
    assert run_all(world, tmp_path, approve=("all", "secondary.import/clear-half-import")).exit_code == 0
    assert_migrated(world)


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda site: site.database.tags.update({("acme/app", "3"): "sha256:x"}), "1 tags were changed"),
        (
            lambda site: site.keep.save("enabled", {"at": (datetime.now(UTC) - timedelta(days=2)).isoformat()}),
            "collection",
        ),
        (lambda site: site.keep.remove("enabled"), "nothing is known"),
    ],
)
def test_the_way_back_is_refused_once_it_is_closed(breaks: Callable[[Any], Any], says: str, tmp_path: Path) -> None:
    world = World()
    run_all(world, tmp_path, sections=SECTIONS[:3])
    breaks(world.secondary)
    run = world.open(tmp_path)
    with pytest.raises(StepFailed, match=says):
        run.undo("secondary.import/enable-database")
    run.close()
    assert state.on_own_database(world.secondary) and not state.read_only_nodes(world.secondary)


# by hand


def test_a_node_that_another_tool_owns_is_described_attested_and_read(tmp_path: Path) -> None:
    world = World()
    world.secondary.manual = True
    run = world.open(tmp_path, approve=("hold",))
    run.check("guard")
    run.apply("hold")
    assert world.secondary.node.files[GITLAB_RB] == ORIGINAL
    run.attest("hold-image-sync", "set in the configuration management, change 12")
    with pytest.raises(StepFailed):  # it was attested, but it is not so
        run.apply("hold")
    world.secondary.node.files[GITLAB_RB] = gitlab_rb.put(ORIGINAL.decode(), state.HOLD, "x = 1").encode()
    world.render(world.secondary)
    run.apply("hold")
    assert outcomes(verdict(run.ledger.entries()))["hold/hold-image-sync"] == "no-op"
    run.close()


# verification


def test_the_canary_is_pushed_awaited_and_removed(tmp_path: Path) -> None:
    world = World(canary_project="acme/app")
    result = run_all(world, tmp_path)
    assert result.exit_code == 0
    assert [(kind, path) for kind, path, _ in world.events] == [("push", "acme/app"), ("delete", "acme/app")]
    assert world.primary.database.tags == world.secondary.database.tags == TAGS
    assert set(world.primary.keep.load("canary")["delays"]) == {"secondary"}


def test_a_canary_of_a_run_that_was_killed_is_removed_by_the_next(tmp_path: Path) -> None:
    world = World(canary_project="acme/app")
    world.replicate = lambda: _raise(Killed())  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run_all(world, tmp_path)
    assert len(world.primary.database.tags) == len(TAGS) + 1
    del world.replicate
    assert run_all(world, tmp_path).exit_code == 0
    assert world.primary.database.tags == world.secondary.database.tags == TAGS


def test_a_canary_that_does_not_arrive_is_removed_and_ends_with_6(tmp_path: Path) -> None:
    world = World(canary_project="acme/app")
    world.replicates = False
    with pytest.raises(VerificationDiffers, match="did not get there"):
        run_all(world, tmp_path)
    assert [kind for kind, _, _ in world.events] == ["push", "delete"]
    assert world.primary.database.tags == TAGS


def test_differences_between_the_sites_end_with_6(tmp_path: Path) -> None:
    world = World()
    assert run_all(world, tmp_path).exit_code == 0
    del world.secondary.database.tags["acme/app", "latest"]
    world.secondary.database.tags["acme/app", "1.0"] = "sha256:" + "8" * 64
    world.secondary.database.tags["acme/extra", "x"] = "sha256:" + "8" * 64
    with pytest.raises(VerificationDiffers):
        run_all(world, tmp_path, sections=("verify",))
    run = world.open(tmp_path)
    run.check("verify")
    run.close()
    found = {result.check: result for result in verdict(run.ledger.entries()).checks}
    text = str(found["same_images"].found)
    assert "acme/app:latest (missing)" in text and "acme/app:1.0 (differing)" in text and "acme/extra:x (extra)" in text


def test_what_geo_has_yet_to_sync_is_in_flight_and_no_difference(tmp_path: Path) -> None:
    world = World()
    assert run_all(world, tmp_path).exit_code == 0
    world.primary.database.tags["acme/app", "new"] = "sha256:" + "8" * 64
    world.records[0] = replace(world.records[0], state="PENDING")
    run = world.open(tmp_path)
    run.check("verify")
    run.close()
    found = {check.check: check for check in verdict(run.ledger.entries()).checks}["same_images"]
    assert (found.verdict, "in flight" in found.found) == ("warning", True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"container_repositories_synced_count": 2}, "2 of 3 synced"),
        ({"container_repositories_failed_count": "1"}, "1 failed"),
        ({"container_repositories_registry_count": None}, "no counts"),
        ({"container_repositories_replication_enabled": False}, "off"),
        ({"healthy": False, "health": "ill"}, "ill"),
        ({"uploads_failed_count": 2}, "uploads: 2 failed"),
        ({"uploads_synced_count": 1}, "uploads: 1 synced"),
        ({"db_replication_lag_seconds": 900}, "lag 900 s"),
    ],
)
def test_what_geo_reports_is_told(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    world = World()
    run_all(world, tmp_path)
    assert world.status is not None
    world.status.update(change)
    run = world.open(tmp_path)
    run.check("verify")
    run.close()
    result = verdict(run.ledger.entries())
    assert any(says in check.found for check in result.checks if check.verdict == "failed")


def test_a_failed_record_is_named(tmp_path: Path) -> None:
    world = World()
    run_all(world, tmp_path)
    world.records[0] = replace(world.records[0], state="FAILED", failure="No valid connection to primary registry")
    run = world.open(tmp_path)
    run.check("verify")
    run.close()
    failed = [check for check in verdict(run.ledger.entries()).checks if check.verdict == "failed"]
    assert [check.check for check in failed] == ["no_failed_record"]
    assert "No valid connection" in failed[0].found

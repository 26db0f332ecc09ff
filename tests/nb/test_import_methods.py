"""One step or three: which it is, when step one is run again, and what keeps step two from being started."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from test_migration_steps import Killed, assert_as_before, assert_migrated, outcomes, run_all
from world import SECTIONS, TAGS, World

from georeg_nb.errors import GeoregError, PrerequisiteError, StepFailed
from georeg_nb.omnibus import ImportLog, predict_step_two
from georeg_nb.procedures import state
from georeg_nb.procedures.import_metadata import checks, import_job, method, prediction

UP_TO_SECONDARY = SECTIONS[:3]


pytestmark = pytest.mark.usefixtures("quick")


def three_steps(**options: Any) -> World:
    return World(import_method="three-step", **options)


# which it is


@pytest.mark.parametrize(
    ("kilobytes", "options", "chosen", "says"),
    [
        (1000, {}, "one-step", "at most a quarter of read_only_limit_minutes (120)"),
        (200 * 2**20, {}, "three-step", "200 GiB"),
        (200 * 2**20 - 1, {"read_only_limit_minutes": 6000}, "one-step", "at most a quarter"),
        (
            100 * 2**20,
            {"read_only_limit_minutes": 5},
            "three-step",
            "more than a quarter of read_only_limit_minutes (5)",
        ),
        (200 * 2**20, {"import_method": "one-step"}, "one-step", "as import_method says"),
        (1000, {"import_method": "three-step"}, "three-step", "as import_method says"),
    ],
)
def test_the_size_decides_unless_it_was_said(kilobytes: int, options: Any, chosen: str, says: str) -> None:
    world = World(**options)
    world.secondary.node.commands["du"] = f"{kilobytes}\t/x\n"
    found = method.method_is_settled(world.secondary)
    assert method.choice(world.secondary).method == chosen
    assert found.verdict == "passed" and says in found.found


def test_what_was_chosen_is_kept_and_holds_for_every_site(tmp_path: Path) -> None:
    world = World()
    for site in world.sites.all:
        site.node.commands["du"] = f"{300 * 2**20}\t/x\n"
    run_all(world, tmp_path, sections=UP_TO_SECONDARY)
    assert world.secondary.keep.load("method")["method"] == "three-step"
    world.primary.node.commands["du"] = "1\t/x\n"
    assert method.choice(world.primary).ground == "as on secondary: the same on every site"
    assert run_all(world, tmp_path).exit_code == 0
    assert method.choice(world.primary).kept


def test_a_method_does_not_change_in_the_middle(tmp_path: Path) -> None:
    world = three_steps()
    world.fail = {"secondary-import": "running"}
    world._import = lambda *_: _raise(Killed())  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run_all(world, tmp_path)
    world.options = world.options.model_copy(update={"import_method": "one-step"})
    for site in world.sites.all:
        site.options = world.options
    found = method.method_is_settled(world.secondary)
    assert found.verdict == "warning" and "is finished so" in found.remedy
    world.secondary.node.kept_jobs["secondary-import"].state = "lost"  # now nothing runs, and no window is open
    assert method.choice(world.secondary).method == "one-step"


def _raise(error: BaseException) -> Any:
    raise error


# step one


def slow_world(pushes: int) -> World:
    """A manifest costs step one 200 s. During its first runs an image is pushed, and with one that is missing step two
    would not fit the limit.
    """
    world = three_steps(read_only_limit_minutes=17)
    left = list(range(pushes))

    def importing(site: Any, name: str, argv: tuple[str, ...]) -> Any:
        world.step_seconds = 200.0 * len({(path, digest) for (path, _), digest in site.storage.items()})
        job = World._import(world, site, name, argv)
        if "--step-one" in argv and left:
            number = left.pop(0)
            site.storage["acme/app", f"new-{number}"] = "sha256:" + f"{number + 4:x}" * 64
        return job

    world._import = importing  # type: ignore[method-assign]
    return world


def assert_is_imported(world: World) -> None:
    assert state.on_own_database(world.secondary) and not state.read_only_nodes(world.secondary)


def test_step_one_is_run_again_until_step_two_is_short_enough(tmp_path: Path) -> None:
    world = slow_world(1)
    run_all(world, tmp_path, sections=UP_TO_SECONDARY)
    assert_is_imported(world)
    ones = [line for line in world.secondary.node.started if "--step-one" in line]
    assert len(ones) == 2
    assert ones[0].startswith("gitlab-ctl") and "--pre-import-skip-recent 0 /var/opt/gitlab/registry" in ones[1]
    assert ("acme/app", "new-0") in world.secondary.database.tags


def test_step_one_that_pushes_outrun_ends_without_a_window(tmp_path: Path) -> None:
    world = slow_world(9)
    with pytest.raises(StepFailed, match="pushed as fast as step one reads"):
        run_all(world, tmp_path)
    assert_as_before(world.secondary)
    assert not world.secondary.database.tags and state.window(world.secondary) is None


def test_an_old_registry_does_not_pass_over_what_it_read(tmp_path: Path) -> None:
    site = World().secondary
    assert import_job.step_one(site, again=True) == import_job.STEP_ONE_OF_ALL
    site.node.files["/opt/gitlab/version-manifest.txt"] = b"gitlab-ee 18.4.2\n"
    site.node.files["/var/opt/gitlab/registry/VERSION"] = b"registry x v4.27.1-gitlab"
    site.__dict__.pop("profile", None)
    assert import_job.step_one(site, again=True) == import_job.step_one(site, again=False) == import_job.STEP_ONE


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pre_import_finished_at": datetime.now(UTC) - timedelta(days=8)}, "more than a week ago"),
        ({"pre_import_error": "it broke"}, "it broke"),
        ({"pre_import_finished_at": None}, "failed"),
    ],
)
def test_a_step_one_that_is_old_or_failed_does_not_count(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    world = three_steps()
    names = ("backup", "connect-database", "migrate-schema", "pre-import")
    run_all(
        world, tmp_path, approve=("hold", *(f"secondary.import/{name}" for name in names)), sections=UP_TO_SECONDARY
    )
    assert prediction.why_step_one_again(world.secondary) == ""
    world.secondary.database.statistics[-1] |= change
    assert why in prediction.why_step_one_again(world.secondary)
    assert method.window_is_short_enough(world.secondary).verdict == "later"
    run_all(world, tmp_path)
    assert_migrated(world)
    assert sum("--step-one" in line for line in world.secondary.node.started) == 2


def test_a_limit_that_no_step_one_helps_to_keep_stops_before_the_window(tmp_path: Path) -> None:
    world = three_steps(read_only_limit_minutes=1)
    with pytest.raises(PrerequisiteError, match="read_only_limit_minutes"):
        run_all(world, tmp_path)
    assert not state.read_only_nodes(world.secondary)


def test_the_window_of_step_two_follows_step_one() -> None:
    done, half = predict_step_two(1000, 0, (1000, 600.0), reconfigure=10), predict_step_two(1000, 500, (1000, 600.0))
    assert (done.low, done.high, done.work) == (10 + 30, 40 + 120, 120)
    assert half.work == 2 * (60 + 300) and "500 not read yet" in str(half)


# step two


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda site: site.database.traces.append("images were pushed into it"), "images were pushed into it"),
        (lambda site: site.keep.save("enabled", {"at": "2026-01-01"}), "enabled once"),
        (lambda site: site.keep.remove("our-imports"), "no import of ours is known"),
        (lambda site: site.lock("database"), "database-in-use was there before"),
        (lambda site: setattr(site, "process_mode", "database"), "legacy"),
        (lambda site: site.database.sessions.append("somebody"), "somebody"),
        (lambda site: site.database.tags.update({("x", "y"): "sha256:z"}), "1 tags"),
    ],
)
def test_step_two_is_never_begun_where_the_database_may_be_in_use(
    breaks: Callable[[Any], Any], says: str, tmp_path: Path
) -> None:
    world = three_steps()
    names = ("backup", "connect-database", "migrate-schema", "pre-import")
    run_all(
        world, tmp_path, approve=("hold", *(f"secondary.import/{name}" for name in names)), sections=UP_TO_SECONDARY
    )
    breaks(world.secondary)
    with pytest.raises(PrerequisiteError) as caught:
        run_all(world, tmp_path, sections=("secondary.import",))
    assert says in str(caught.value)
    assert not state.read_only_nodes(world.secondary)
    assert not any("--step-two" in line for line in world.secondary.node.started)


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda site: site.database.traces.append("images were pushed into it"), "images were pushed into it"),
        (lambda site: site.database.statistics.clear(), "no complete step one"),
        (lambda site: site.keep.save("enabled", {"at": "2026-01-01"}), "enabled once"),
    ],
)
def test_in_the_window_it_is_asked_again_and_pushes_are_let_in(
    breaks: Callable[[Any], Any], says: str, tmp_path: Path
) -> None:
    world = three_steps()
    names = ("backup", "connect-database", "migrate-schema", "pre-import", "read-only", "snapshot")
    run_all(
        world, tmp_path, approve=("hold", *(f"secondary.import/{name}" for name in names)), sections=UP_TO_SECONDARY
    )
    assert state.read_only_nodes(world.secondary)
    breaks(world.secondary)
    site = world.secondary
    with pytest.raises(StepFailed, match=says) as caught:
        next(step for step in _steps() if step.name == "import").apply(site)
    assert "pushes are accepted again" in str(caught.value)
    assert not state.read_only_nodes(site)


def _steps() -> Any:
    from georeg_nb.procedures.import_metadata import IMPORT

    return IMPORT.steps


@pytest.mark.parametrize(("step", "how"), [(s, h) for s in ("one", "two", "three") for h in ("1", "lost")])
def test_a_step_that_failed_or_was_killed_is_taken_up(step: str, how: str, tmp_path: Path) -> None:
    world = three_steps()
    perform = world.perform

    def failing(site: Any, name: str, argv: tuple[str, ...], node: Any) -> Any:
        world.fail = {"secondary-import": how} if f"--step-{step}" in argv else {}
        return perform(site, name, argv, node)

    world.perform = failing  # type: ignore[method-assign]
    with pytest.raises(StepFailed, match="it broke" if how == "1" else "without leaving its exit status"):
        run_all(world, tmp_path)
    assert not state.read_only_nodes(world.secondary)
    assert bool(world.secondary.database.tags) is (step != "one")
    world.perform = perform  # type: ignore[method-assign]
    world.fail = {}
    result = run_all(world, tmp_path, approve=("all", "secondary.import/clear-half-import"))
    assert result.exit_code == 0
    assert_migrated(world)
    assert sum("--step-two" in line for line in world.secondary.node.started) == (2 if step == "two" else 1)


def test_another_step_that_runs_is_not_taken_for_this_one(tmp_path: Path) -> None:
    world = three_steps()
    run_all(world, tmp_path, sections=UP_TO_SECONDARY)
    from world import FakeJob

    world.secondary.node.kept_jobs["secondary-import"] = FakeJob(
        "secondary-import", import_job.STEP_ONE, "running", None
    )
    assert checks.import_runs(world.secondary)
    with pytest.raises(StepFailed, match="another import is running"):
        import_job.run(world.secondary, import_job.STEP_THREE, 0, "x")


# step three


def test_step_three_is_done_when_the_database_says_so(tmp_path: Path) -> None:
    world = three_steps()
    names = [step.name for step in _steps() if step.name not in ("import-blobs", "clear-half-import")]
    result = run_all(
        world, tmp_path, approve=("hold", *(f"secondary.import/{name}" for name in names)), sections=UP_TO_SECONDARY
    )
    assert outcomes(result)["secondary.import/import-blobs"] == "not approved"
    assert state.on_own_database(world.secondary) and state.blobs_are_known(world.secondary) is None
    with pytest.raises(GeoregError):  # the way back is open, but not while an import runs
        world.fail = {"secondary-import": "running"}
        world.secondary.node.start_job("secondary-import", import_job.STEP_THREE)
        run = world.open(tmp_path)
        run.undo("secondary.import/enable-database")
    world.secondary.node.kept_jobs.clear()
    world.fail = {}
    world._import(world.secondary, "by-hand", import_job.STEP_THREE)
    result = run_all(world, tmp_path, sections=UP_TO_SECONDARY)
    assert outcomes(result)["secondary.import/import-blobs"] == "no-op"


def test_in_one_step_the_other_two_are_skipped_by_rule(tmp_path: Path) -> None:
    world = World(import_method="one-step")
    result = run_all(world, tmp_path)
    for name in ("pre-import", "import-blobs"):
        found = next(o for o in result.outcomes if o.step == f"primary.import/{name}")
        assert (found.outcome, found.reason) in (
            ("skipped by rule", "one-step: as import_method says"),
            ("no-op", found.reason),
        )


@pytest.mark.parametrize(("steps", "shares"), [((1,), [0.5, 1.0]), ((2,), [0.5, 1.0]), ((3,), [None, None])])
def test_progress_of_one_step(steps: tuple[int, ...], shares: list[float | None]) -> None:
    log = ImportLog(total_tags=4, steps=steps)
    begins = {1: "pre importing repository", 2: "importing repository", 3: "importing all blobs"}[steps[0]]
    each = {1: "processing tag", 2: "importing tag", 3: "importing blob"}[steps[0]]
    log.feed(f'{{"msg": "{begins}", "count": 1, "repository": "a/b"}}\n')
    found = []
    for _ in range(2):
        log.feed(f'{{"msg": "{each}"}}\n' * 2)
        found.append(log.fraction)
    assert found == shares
    log.feed('{"msg": "metadata import complete"}\n')
    assert log.fraction == 1.0


def test_the_tags_are_those_of_the_storage(tmp_path: Path) -> None:
    world = three_steps()
    run_all(world, tmp_path)
    assert world.primary.database.tags == TAGS
    assert state.window(world.primary).method == "three-step"  # type: ignore[union-attr]

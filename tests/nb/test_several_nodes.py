"""Two registry nodes on the primary, two secondaries: no node takes pushes that another does not know, and a node or a
site that fails is named and leaves the others in a stated condition.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_migration_steps import Killed, outcomes, run_all
from world import SECTIONS, TAGS, World

from georeg_nb import gitlab_rb
from georeg_nb.errors import GeoregError, PrerequisiteError, StepFailed
from georeg_nb.ledger import verdict
from georeg_nb.omnibus import GITLAB_RB
from georeg_nb.procedures import standing, state
from georeg_nb.procedures.guard import nodes
from georeg_nb.procedures.import_metadata import checks, window
from georeg_nb.procedures.import_metadata.switch import EnableDatabase

FIRST, SECOND = "primary-node", "primary-registry-2"


pytestmark = pytest.mark.usefixtures("impatient")


def two_nodes(**options: Any) -> World:
    return World(registry_nodes={"primary": 2}, **options)


def assert_no_push_could_be_lost(world: World) -> None:
    """Whenever nodes of a site worked on different metadata, every one of them refused pushes."""
    for site in world.sites.all:
        for standing_then in site.seen:
            if len({mode for mode, _ in standing_then}) > 1:
                assert all(refuses for _, refuses in standing_then), standing_then


def assert_moved(site: Any) -> None:
    assert state.on_own_database(site) and not state.read_only_nodes(site)
    for node in site.nodes:
        assert list(gitlab_rb.blocks(node.files[GITLAB_RB].decode())) == [state.DATABASE]
    assert site.database.tags == TAGS


def test_every_node_is_switched_before_any_takes_pushes(tmp_path: Path) -> None:
    world = two_nodes(secondaries=2)
    first = run_all(world, tmp_path)
    assert first.exit_code == 0
    for site in world.sites.all:
        assert_moved(site)
    assert_no_push_could_be_lost(world)
    reconfigure = "gitlab-ctl reconfigure"
    assert world.primary.nodes[1].started == [reconfigure] * 4  # connect, read-only, switch, let pushes in
    assert [argv == reconfigure for argv in world.primary.node.started].count(True) == 4
    assert world.primary.seen[-4:] == [
        [("database", True), ("legacy", True)],
        [("database", True), ("database", True)],
        [("database", False), ("database", True)],
        [("database", False), ("database", False)],
    ]
    second = run_all(world, tmp_path)
    assert second.exit_code == 0
    assert set(outcomes(second).values()) <= {"no-op", "skipped by rule"}


def test_nothing_is_imported_while_one_node_takes_pushes(tmp_path: Path) -> None:
    world = two_nodes()
    answers = window.upload_answers

    def deaf(site: Any) -> dict[str, str]:
        return answers(site) | ({SECOND: "accepted"} if site is not None and site.name == "primary" else {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "upload_answers", deaf)
        with pytest.raises(StepFailed, match=f"upload accepted on {SECOND}"):
            run_all(world, tmp_path)
    assert not world.primary.database.tags
    assert state.read_only_nodes(world.primary) == []


@pytest.mark.parametrize("how", ["1", "silent"])
@pytest.mark.parametrize("node", [FIRST, SECOND])
@pytest.mark.parametrize("job", ["primary-read-only", "primary-enable-database-switch"])
def test_a_node_that_fails_in_the_window_lets_every_node_go_back(job: str, node: str, how: str, tmp_path: Path) -> None:
    world = two_nodes()
    world.fail = {f"{job}@{node}": how}
    with pytest.raises(StepFailed, match=node) as caught:
        run_all(world, tmp_path)
    assert "pushes are accepted again" in str(caught.value)
    assert state.is_legacy(world.primary) and not state.read_only_nodes(world.primary)
    assert not world.primary.omnibus.lockfiles().database
    assert world.primary.keep.load("enabled") is None
    assert_no_push_could_be_lost(world)
    world.fail = {}
    result = run_all(world, tmp_path, approve=("all", "primary.import/clear-half-import"))
    assert result.exit_code == 0
    assert_moved(world.primary)
    assert_no_push_could_be_lost(world)


def test_a_node_that_does_not_let_pushes_in_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    world = two_nodes()
    world.fail = {f"primary-enable-database@{SECOND}": "1"}
    with pytest.raises(StepFailed, match=rf"READ-ONLY on {SECOND}: pushes are refused"):
        run_all(world, tmp_path)
    assert state.on_own_database(world.primary)
    assert state.read_only_nodes(world.primary) == [SECOND]
    world.fail = {}
    assert run_all(world, tmp_path).exit_code == 0
    assert_moved(world.primary)
    assert_no_push_could_be_lost(world)


def test_a_node_out_of_reach_while_the_others_are_switched_keeps_pushes_refused(tmp_path: Path) -> None:
    world = two_nodes()
    cut_at(world, f"primary-enable-database-switch@{FIRST}", world.primary.nodes[1])
    with pytest.raises(StepFailed, match=SECOND) as caught:
        run_all(world, tmp_path)
    assert f"the state of {SECOND} could not be read" in str(caught.value)
    assert f"READ-ONLY on {FIRST}" in str(caught.value)
    world.primary.away.clear()
    assert len(state.read_only_nodes(world.primary)) == 2
    assert state.is_switching(world.primary)
    assert checks.registry_is_legacy(world.primary).verdict == "not applicable"
    assert run_all(world, tmp_path).exit_code == 0
    assert_moved(world.primary)
    assert_no_push_could_be_lost(world)


def cut_at(world: World, place: str, node: Any) -> None:
    """After the reconfigure of that job on that node, the other node cannot be reached any more."""
    perform = world.perform

    def cutting(site: Any, name: str, argv: tuple[str, ...], where: Any) -> Any:
        job = perform(site, name, argv, where)
        if f"{name}@{where.name}" == place:
            site.away.add(node.name)
            del world.perform
        return job

    world.perform = cutting  # type: ignore[method-assign]


def test_a_node_out_of_reach_when_the_window_is_opened_lets_the_others_in_again(tmp_path: Path) -> None:
    world = two_nodes()
    cut_at(world, f"primary-read-only@{FIRST}", world.primary.nodes[1])
    with pytest.raises(StepFailed, match=rf"STILL REFUSED on {SECOND}(?s:.*)the state of {SECOND} could not be read"):
        run_all(world, tmp_path)
    world.primary.away.clear()
    assert state.read_only_nodes(world.primary) == []
    assert run_all(world, tmp_path).exit_code == 0
    assert_moved(world.primary)


def test_a_registry_that_died_in_the_window_is_named_and_nothing_is_imported(tmp_path: Path) -> None:
    world = two_nodes()
    perform = world.perform

    def dying(site: Any, name: str, argv: tuple[str, ...], node: Any) -> Any:
        job = perform(site, name, argv, node)
        if name == "primary-read-only" and node.name == SECOND:
            site.registries_down.add(SECOND)
        return job

    world.perform = dying  # type: ignore[method-assign]
    with pytest.raises(StepFailed, match=rf"no answer \(nobody listens there\) on {SECOND}"):
        run_all(world, tmp_path)
    assert not world.primary.database.tags
    assert state.read_only_nodes(world.primary) == []
    world.primary.registries_down.clear()
    del world.perform
    assert run_all(world, tmp_path).exit_code == 0
    assert_moved(world.primary)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("job", ["primary-read-only", "primary-enable-database-switch", "primary-enable-database"])
@pytest.mark.parametrize("node", [FIRST, SECOND])
def test_killed_at_one_node_and_started_again(job: str, node: str, when: str, tmp_path: Path) -> None:
    world = two_nodes()
    perform = world.perform

    def killing(site: Any, name: str, argv: tuple[str, ...], where: Any) -> Any:
        if f"{name}@{where.name}" == f"{job}@{node}":
            del world.perform
            if when == "after":
                where.kept_jobs[name] = perform(site, name, argv, where)
            raise Killed
        return perform(site, name, argv, where)

    world.perform = killing  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run_all(world, tmp_path)
    assert run_all(world, tmp_path).exit_code == 0
    assert_moved(world.primary)
    assert_no_push_could_be_lost(world)


def test_the_way_back_is_taken_by_every_node_before_any_takes_pushes(tmp_path: Path) -> None:
    world = two_nodes()
    run_all(world, tmp_path)
    run = world.open(tmp_path, approve=())
    run.undo("primary.import/enable-database")
    run.close()
    assert state.is_legacy(world.primary) and not state.read_only_nodes(world.primary)
    assert_no_push_could_be_lost(world)


def test_one_node_of_another_tool_makes_the_steps_manual_and_both_rounds_are_told(tmp_path: Path) -> None:
    world = two_nodes()
    run_all(world, tmp_path, approve=("hold", "secondary.import"), sections=SECTIONS[:3])
    world.primary.manual = SECOND
    instruction = EnableDatabase().manual(world.primary)
    assert instruction and "In two rounds over all registry nodes" in instruction
    assert f"done by hand on every node of the site: {FIRST}, {SECOND}" in instruction
    run = world.open(tmp_path, approve=("primary.import",))
    try:
        run.check("guard")
        run.apply("primary.import")
        for step, blocks in (
            ("connect-database", {state.DATABASE: window.database_block(world.primary, enabled=False)}),
            ("read-only", window._settings(world.primary.omnibus)),
            ("enable-database", {state.DATABASE: window.database_block(world.primary, enabled=True)}),
        ):
            assert outcomes(verdict(run.ledger.entries()))[f"primary.import/{step}"] == "not approved"
            by_hand(world, blocks)
            if step == "enable-database":
                by_hand(world, {state.READ_ONLY: None})
            run.attest(step, "change 12")
            run.apply("primary.import")
    finally:
        run.close()
    assert_moved(world.primary)


def by_hand(world: World, blocks: dict[str, str | None]) -> None:
    """What the operator does, on every registry node."""
    for node in world.primary.nodes:
        node.files[GITLAB_RB] = gitlab_rb.edit(node.files[GITLAB_RB].decode(), blocks).encode()
        world.render(world.primary, node)


def test_a_manual_node_is_never_written_when_pushes_are_let_in(tmp_path: Path) -> None:
    world = two_nodes()
    by_hand(world, window._settings(world.primary.omnibus))
    world.primary.manual = SECOND
    kept = world.primary.nodes[1].files[GITLAB_RB]
    with pytest.raises(GeoregError, match=f"another tool owns {GITLAB_RB}"):
        window.let_pushes_in(world.primary)
    assert world.primary.nodes[1].files[GITLAB_RB] == kept
    assert state.read_only_nodes(world.primary) == [SECOND]


def test_the_sheet_switches_every_node_before_it_lets_pushes_in() -> None:
    for world, rounds in ((World(), 1), (two_nodes(), 2)):
        lines = EnableDatabase().break_glass(world.primary)
        for pastes in (lines.finish, lines.undo):
            changed = [paste for paste in pastes if "let pushes in" in paste.says and "reconfigure" in paste.shell]
            turned = f"{state.DATABASE} /,/"
            assert (turned in changed[0].shell, turned in changed[-1].shell) == (True, rounds == 1)
            assert len(changed) == rounds
            assert state.READ_ONLY in changed[-1].shell
            assert (state.READ_ONLY in changed[0].shell) == (rounds == 1)


# several secondaries


def test_a_secondary_that_fails_leaves_the_others_as_the_message_says(tmp_path: Path) -> None:
    world = World(secondaries=2)
    first, second = world.sites.secondaries
    world.fail = {"secondary-2-import": "1"}
    with pytest.raises(StepFailed) as caught:
        run_all(world, tmp_path)
    assert_moved_but_held(first)
    assert state.is_legacy(second) and state.is_held(second) and not state.read_only_nodes(second)
    assert world.primary.node.started == []
    for said in (
        "secondary-2: registry in legacy mode, pushes are accepted, image sync is held",
        "secondary: registry in database mode, pushes are accepted, image sync is held",
        "primary: registry in legacy mode, pushes are accepted",
    ):
        assert said in str(caught.value)
    world.fail = {}
    assert run_all(world, tmp_path, approve=("all", "secondary.import[secondary-2]/clear-half-import")).exit_code == 0
    for site in world.sites.all:
        assert_moved(site)


def assert_moved_but_held(site: Any) -> None:
    assert state.on_own_database(site) and state.is_held(site)


def test_the_canary_is_awaited_at_every_secondary(tmp_path: Path) -> None:
    world = World(secondaries=2, canary_project="acme/app")
    assert run_all(world, tmp_path).exit_code == 0
    assert set(world.primary.keep.load("canary")["delays"]) == {"secondary", "secondary-2"}


def test_every_secondary_is_held_before_anything_is_imported(tmp_path: Path) -> None:
    world = World(secondaries=2)
    world.fail = {"secondary-2-hold-image-sync": "1"}
    with pytest.raises(StepFailed):
        run_all(world, tmp_path)
    with pytest.raises((PrerequisiteError, StepFailed)):
        run_all(world, tmp_path)
    assert not any(site.database.tags for site in world.sites.all)
    assert [standing.describe(site) for site in world.sites.all][2].endswith("image sync goes on")


# the guard


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda node: node.files.update({"/etc/gitlab/gitlab-secrets.json": b'{"registry": {}}'}), "the signing key"),
        (lambda node: node.commands.update({"stat -L": "7\n8\n"}), "the storage"),
        (
            lambda node: node.files.update({"/var/opt/gitlab/registry/VERSION": b"registry x v4.31.0-gitlab"}),
            "the registry's version",
        ),
        (
            lambda node: node.files.update(
                {
                    "/var/opt/gitlab/registry/config.yml": node.files["/var/opt/gitlab/registry/config.yml"].replace(
                        b"addr:", b"secret: other\n  addr:"
                    )
                }
            ),
            "the HTTP secret",
        ),
    ],
)
def test_nodes_that_are_not_alike_are_told(breaks: Callable[[Any], None], says: str) -> None:
    world = two_nodes()
    assert nodes.nodes_are_alike(world.primary).verdict == "passed"
    assert nodes.nodes_are_alike(world.secondary).verdict == "not applicable"
    breaks(world.primary.nodes[1])
    finding = nodes.nodes_are_alike(world.primary)
    assert finding.verdict == "failed"
    assert f"{says} of {SECOND}" in finding.found
    assert "other" not in finding.found.replace("other than", "")


def test_the_default_database_may_have_another_address_on_each_node() -> None:
    """It follows the roles of the node, and nobody connects to it while the registry is in legacy mode."""
    world = two_nodes()
    path = "/var/opt/gitlab/registry/config.yml"
    config = yaml.safe_load(world.primary.nodes[1].files[path])
    config["database"] = {"enabled": False, "port": 6432}
    world.primary.nodes[1].files[path] = yaml.safe_dump(config).encode()
    assert nodes.nodes_are_alike(world.primary).verdict == "passed"
    config["database"]["host"] = "elsewhere.example"
    world.primary.nodes[1].files[path] = yaml.safe_dump(config).encode()
    assert "the database's address" in nodes.nodes_are_alike(world.primary).found


def test_a_node_without_the_certificate_authority_is_told() -> None:
    world = two_nodes()
    assert nodes.authority_is_there(world.primary).verdict == "passed"
    del world.primary.nodes[1].files["/etc/gitlab/ssl/db-ca.crt"]
    finding = nodes.authority_is_there(world.primary)
    assert (finding.verdict, finding.found) == ("failed", f"not on {SECOND}")

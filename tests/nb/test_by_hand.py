"""The break-glass sheet: every step of every scenario has its lines, they are shell, and no secret is in them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from world import World

from georeg_nb import gitlab_rb, redaction
from georeg_nb.cli import georeg
from georeg_nb.procedures import shell, state
from georeg_nb.procedures.hold_sync import HOLD_SETTING
from georeg_nb.procedures.import_metadata import by_hand
from georeg_nb.procedures.import_metadata.blocks import database_block
from georeg_nb.runbook import Step
from georeg_nb.runbook.break_glass import NAME, ON_NODE
from georeg_nb.runbook.by_hand import ByHand, Paste
from georeg_nb.runbook.refs import declare
from georeg_nb.scenarios import SCENARIOS
from georeg_nb.versions import Profile

PASSWORD = "world's \\ $HOME `id` password"
LINES = [(name, entry.scenario) for name, entry in SCENARIOS.items()]


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WORLD_TOKEN", "glpat-world-token")
    monkeypatch.setenv("WORLD_PASSWORD", PASSWORD)
    yield
    redaction.forget_all()


def pastes(lines: ByHand) -> list[Paste]:
    return [*lines.done, *lines.finish, *lines.undo]


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_step_has_its_lines_or_says_why_not(name: str) -> None:
    world = World()
    for ref in declare(SCENARIOS[name].scenario, world.sites):
        assert type(ref.step).break_glass is not Step.break_glass, ref.id
        lines = ref.step.break_glass(ref.site.read_only_view())
        if isinstance(lines, str):
            assert len(lines) > 20, ref.id
            continue
        assert lines.finish, ref.id
        assert lines.undo or lines.no_undo, ref.id
        for paste in pastes(lines):
            assert paste.nodes and set(paste.nodes) <= {node.name for site in world.sites.all for node in site.nodes}
            assert paste.says or paste in lines.done, ref.id


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_lines_are_shell_without_georeg_python_or_secrets(name: str) -> None:
    world = World(canary_project="acme/app", accept_losses=["acme/old:lossy"])
    texts = [shell.place(site).names for site in world.sites.all]
    for ref in declare(SCENARIOS[name].scenario, world.sites):
        lines = ref.step.break_glass(ref.site.read_only_view())
        texts += [paste.shell for paste in pastes(lines)] if isinstance(lines, ByHand) else []
    for text in texts:
        checked = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{checked.stderr}\n{text}"
        commands = re.sub(
            r"/var/lib/georeg/|[<>]{3} georeg:|^ *#.*$|  # .*$|\(written by georeg.*", "", text, flags=re.M
        )
        commands = commands.replace("wait_for_georeg", "")
        assert not re.search(r"georeg|python", commands), commands
        assert PASSWORD not in text and "glpat" not in text


def run(root: Path, script: str, **env: str) -> str:
    """A piece of the sheet by sh, with a node's gitlab.rb below a folder."""
    script = script.replace(gitlab_rb.PATH, f"{root}/gitlab.rb")
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "text", ["", "a = 1\n", "a = 1\n\n# >>> georeg: hold-image-sync (x)\nold\n# <<< georeg: hold-image-sync\n"]
)
def test_a_block_is_put_and_dropped_as_the_steps_do(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gitlab.rb"
    file.write_text(text)
    run(tmp_path, shell.put(state.HOLD, HOLD_SETTING))
    assert gitlab_rb.blocks(file.read_text()) == {state.HOLD: HOLD_SETTING}
    assert file.read_text().startswith(gitlab_rb.remove(text, state.HOLD).rstrip("\n"))
    run(tmp_path, shell.drop(state.HOLD))
    assert file.read_text().strip() == gitlab_rb.remove(text, state.HOLD).strip()


def test_the_database_block_is_the_steps_own_with_the_password_typed(tmp_path: Path) -> None:
    """Whatever is in the password: it is quoted for Ruby, and the shell does not look into it."""
    site = World().primary
    (tmp_path / "gitlab.rb").write_text("a = 1\n")
    block = database_block(site, enabled=False, password=by_hand.TYPED)
    lines = by_hand.connect_database(site, block).finish[-1].shell
    names = next(line for line in shell.place(site).names.splitlines() if line.startswith("in_ruby()"))
    put = lines.partition("copy_gitlab_rb\n")[2].rpartition("EOF")[0] + "EOF"
    run(tmp_path, f"{names}\n{put}", password=PASSWORD)
    assert gitlab_rb.blocks((tmp_path / "gitlab.rb").read_text()) == {
        state.DATABASE: database_block(site, enabled=False)
    }


def test_the_switch_turns_enabled_in_the_block_and_nothing_else(tmp_path: Path) -> None:
    site = World().primary
    outside = "registry['other'] = { 'enabled' => false }\n"
    blocks = {state.DATABASE: database_block(site, enabled=False), state.READ_ONLY: "x = 1"}
    file = tmp_path / "gitlab.rb"
    file.write_text(gitlab_rb.edit(outside, blocks))
    lines = by_hand.enable_database(site)
    for pasted, enabled in ((lines.finish[1], True), (lines.undo[-3], False)):
        body = "\n".join(line for line in pasted.shell.splitlines() if line.startswith("sed "))
        run(tmp_path, body)
        assert gitlab_rb.blocks(file.read_text()) == {state.DATABASE: database_block(site, enabled=enabled)}
        assert file.read_text().startswith(outside)


def test_the_sheet_lies_in_the_record_and_on_the_nodes_and_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    run_ = world.open(tmp_path)
    try:
        run_.apply("hold")
        sheet = (run_.record.path / NAME).read_text()
        assert not any(ON_NODE in site.node.files for site in world.sites.all), "a plan changes nothing"
        plan = json.loads((run_.record.path / "plan.json").read_text())
        assert plan[0]["break_glass"]["finish"][0]["shell"] in sheet
        run_.approve("hold-image-sync")
        run_.apply("hold")
    finally:
        run_.close()
    monkeypatch.setenv("GEOREG_RECORDS", str(run_.record.path.parent))
    shown = CliRunner().invoke(georeg, ["records", "show", run_.record.run, "--break-glass"])
    assert shown.output.strip() == (run_.record.path / NAME).read_text().strip()
    kept = world.secondary.node.files[ON_NODE].decode()
    assert ON_NODE not in world.primary.node.files
    assert re.search(r"1\. `hold/hold-image-sync` done \d{4}-", kept)
    for ref in declare(run_.scenario, world.sites):
        assert f"### {ref.id}: " in kept
    assert "COULD NOT BE MADE" not in kept and PASSWORD not in kept


def test_lines_that_cannot_be_made_leave_a_gap_and_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    monkeypatch.setattr(by_hand, "read_only", lambda site: 1 / 0)
    run_ = world.open(tmp_path)
    try:
        run_.apply("hold")
    finally:
        run_.close()
    sheet = (run_.record.path / NAME).read_text()
    assert "THESE LINES COULD NOT BE MADE (division by zero)" in sheet
    assert "ZeroDivisionError" in (run_.record.path / "errors.log").read_text()


@pytest.mark.parametrize(("version", "by_row"), [("v4.24.0-gitlab", False), ("v4.32.0-gitlab", True)])
def test_where_the_importer_keeps_no_row_its_logs_tell_how_it_ended(
    version: str, by_row: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "JOBS", str(tmp_path / "jobs"))
    monkeypatch.setattr(shell, "FOLDER", str(tmp_path / "by-hand"))
    site = World().primary
    monkeypatch.setattr(type(site), "profile", property(lambda _: Profile.of("18.2.8", version)))
    test, third = shell.ended(site, "SELECT 1"), shell.ended(site, "SELECT 1", "--step-three")
    assert ("SELECT 1" in test) is ("SELECT 1" in third) is by_row
    if by_row:
        return

    def holds(line: str) -> bool:
        return subprocess.run(["sh", "-c", line], check=False).returncode == 0

    assert not holds(test)
    job = tmp_path / "jobs" / f"{site.name}-import" / "1"
    job.mkdir(parents=True)
    (job / "description").write_text('{"argv": ["gitlab-ctl", "registry-database", "import", "--step-two"]}')
    (job / "output").write_text('msg="importing tag"\n')
    assert not holds(test)
    (job / "output").write_text('msg="metadata import complete"\n')
    assert holds(test) and not holds(third)
    (job / "description").write_text('{"argv": ["gitlab-ctl", "registry-database", "import", "--step-three"]}')
    assert holds(third)

"""Nodes: files in one step, read-only views, and detached jobs that outlive us and are never started twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from georeg_lab.sshd import SshServers, why_no_sudo
from georeg_nb.errors import (
    CommandFailed,
    CommandTimeout,
    ConnectionLost,
    JobLost,
    NodeFileMissing,
    ReadOnlySite,
    StepFailed,
)
from georeg_nb.nodes import JOBS, LocalNode, LocalTransport, SshNode, SshTarget, jobs
from georeg_nb.readers import NotAReader

SomeNode = LocalNode | SshNode


@pytest.fixture(params=["local", "ssh"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SomeNode]:
    """The same node, with its files below a folder, by each way to reach one: over SSH through a jump host, and with
    sudo where that can be had.
    """
    (tmp_path / "node").mkdir()
    way = "ssh_servers" if why_no_sudo() else "sudo_servers"
    servers = None if request.param == "local" else request.getfixturevalue(way)
    node = reached(tmp_path / "node", servers)
    yield node
    for job in node.jobs():
        if job.state == "running" and job.pid:
            os.killpg(job.pid, signal.SIGKILL)
    node.close()


@pytest.fixture
def local(tmp_path: Path) -> LocalNode:
    (tmp_path / "node").mkdir()
    return LocalNode("primary-1", ["rails", "registry"], tmp_path / "node")


def reached(root: Path, servers: SshServers | None) -> SomeNode:
    if servers is None:
        return LocalNode("primary-1", ["rails", "registry"], root)
    target = SshTarget("node", config=servers.ssh_config)
    return SshNode("primary-1", ["rails", "registry"], target, sudo=servers.sudo, root=root)


def program(node: SomeNode, name: str, text: str) -> str:
    """Put a shell script where the node's programs are looked up."""
    assert node.root
    path = node.root / "usr/bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return name


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


# commands


def test_a_reader_is_run_and_reported(node: SomeNode) -> None:
    seen: list[dict[str, object]] = []
    node.on_command = seen.append
    program(node, "gitlab-ctl", 'echo "run: registry: $GEOREG_NODE_ROOT $*"; echo warning >&2; exit 3')
    result = node.run(["gitlab-ctl", "status", "registry"], check=False)
    assert (result.status, result.stdout, result.stderr) == (
        3,
        f"run: registry: {node.root} status registry\n",
        "warning\n",
    )
    assert result.argv == ("gitlab-ctl", "status", "registry")
    assert [(record["kind"], record["argv"], record["status"]) for record in seen] == [("read", list(result.argv), 3)]


def test_a_status_other_than_0_is_an_error_with_its_output(node: SomeNode) -> None:
    program(node, "gitlab-rake", "echo 'Gitlab Geo is not configured for this site' >&2; exit 1")
    with pytest.raises(CommandFailed, match="not configured for this site") as caught:
        node.run(["gitlab-rake", "geo:status"])
    assert caught.value.status == 1 and caught.value.node == "primary-1"


def test_what_is_no_reader_never_runs(node: SomeNode) -> None:
    program(node, "gitlab-ctl", 'touch "$GEOREG_NODE_ROOT/ran"')
    with pytest.raises(NotAReader):
        node.run(["gitlab-ctl", "reconfigure"])
    assert not node.exists("/ran")


def test_a_command_that_hangs_is_ended_with_all_its_processes(node: SomeNode) -> None:
    program(node, "gitlab-ctl", 'sleep 600 & echo $! > "$GEOREG_NODE_ROOT/child"; wait')
    with pytest.raises(CommandTimeout) as caught:
        node.run(["gitlab-ctl", "status"], timeout=1)
    assert caught.value.seconds == 1
    child = int(node.read_file("/child"))
    until(lambda: gone(child))


def test_a_missing_program_is_named(node: SomeNode) -> None:
    with pytest.raises(CommandFailed, match="gitlab-rake: not found"):
        node.run(["gitlab-rake", "geo:status"])


def test_our_environment_stays_here(node: SomeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XP_PASSWORD", "correct-horse")
    program(node, "gitlab-ctl", "env")
    assert "XP_PASSWORD" not in node.run(["gitlab-ctl", "status"]).stdout
    job = node.start_job("env", ["gitlab-ctl", "env"]).wait()
    assert b"XP_PASSWORD" not in job.output()


def test_the_machines_own_tools_see_the_nodes_paths(node: SomeNode) -> None:
    node.write_file("/etc/gitlab/gitlab.rb", b"external_url 'x'\n")
    assert node.run(["cat", "/etc/gitlab/gitlab.rb"]).stdout == "external_url 'x'\n"
    assert node.run(["test", "-e", "/etc/passwd"], check=False).status == 1


def test_without_a_root_the_node_is_this_machine(tmp_path: Path) -> None:
    node = LocalNode("here", ["rails"])
    node.write_file(str(tmp_path / "a"), b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert node.run(["uname", "-s"]).stdout == "Linux\n"


# files


def test_a_new_file_gets_the_mode_and_missing_folders_are_private(node: SomeNode) -> None:
    node.write_file("/var/lib/georeg/keep/x.json", b"{}")
    assert node.root
    assert mode(node.root / "var/lib/georeg/keep/x.json") == 0o600
    assert mode(node.root / "var/lib/georeg") == 0o700
    node.write_file("/open", b"", mode=0o644)
    assert mode(node.root / "open") == 0o644


def test_an_existing_file_keeps_its_mode_and_owner(node: SomeNode) -> None:
    assert node.root
    target = node.root / "config.yml"
    target.write_bytes(b"old")
    target.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(target, 12345, 23456)
    before = target.stat()
    node.write_file("/config.yml", b"new", mode=0o600)
    after = target.stat()
    assert target.read_bytes() == b"new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert node.list_dir("/") == ["config.yml"]


def test_a_link_is_written_through(node: SomeNode) -> None:
    assert node.root
    (node.root / "real").write_bytes(b"old")
    (node.root / "link").symlink_to("real")
    node.write_file("/link", b"new")
    assert (node.root / "link").is_symlink() and (node.root / "real").read_bytes() == b"new"


def test_a_writer_that_failed_leaves_the_old_content(local: LocalNode, monkeypatch: pytest.MonkeyPatch) -> None:
    local.write_file("/gitlab.rb", b"old")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StepFailed, match="No space left"):
        local.write_file("/gitlab.rb", b"new")
    assert local.read_file("/gitlab.rb") == b"old"
    assert local.list_dir("/") == ["gitlab.rb"]


def test_what_a_killed_writer_left_is_removed_later(node: SomeNode) -> None:
    assert node.root
    old, recent = node.root / ".gitlab.rb.georeg-old", node.root / ".gitlab.rb.georeg-recent"
    old.write_bytes(b"password")
    recent.write_bytes(b"being written")
    os.utime(old, (0, 0))
    node.write_file("/gitlab.rb", b"new")
    assert node.list_dir("/") == [".gitlab.rb.georeg-recent", "gitlab.rb"]


def test_of_many_that_create_a_file_one_wins(node: SomeNode) -> None:
    won: list[int] = []

    def create(number: int) -> None:
        if node.create_file("/lock", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and node.read_file("/lock") == str(won[0]).encode()


def test_missing_files_are_named(node: SomeNode) -> None:
    for read in (node.read_file, node.list_dir):
        with pytest.raises(NodeFileMissing) as caught:
            read("/etc/gitlab/gitlab.rb")
        assert caught.value.path == "/etc/gitlab/gitlab.rb"
    assert not node.exists("/etc/gitlab/gitlab.rb")
    node.remove_file("/etc/gitlab/gitlab.rb")


def test_a_read_only_view_refuses_every_change(node: SomeNode) -> None:
    node.write_file("/a", b"1")
    node.start_job("done", ["true"]).wait()
    view = node.read_only_view()
    assert view.readonly and not node.readonly
    job = view.job("done")
    assert job
    changes: list[Callable[[], object]] = [
        lambda: view.write_file("/a", b"2"),
        lambda: view.create_file("/b", b"2"),
        lambda: view.remove_file("/a"),
        lambda: view.start_job("other", ["true"]),
        job.forget,
    ]
    for change in changes:
        with pytest.raises(ReadOnlySite):
            change()
    assert view.read_file("/a") == b"1" and not view.exists("/b")
    assert [job.name for job in view.jobs()] == ["done"]


# jobs


def test_a_job_runs_to_its_end(node: SomeNode) -> None:
    program(node, "gitlab-ctl", 'echo one; echo two >&2; pwd; umask; read line; echo "got $line"; exit 7')
    told: list[str] = []
    job = node.start_job("reconfigure", ["gitlab-ctl", "reconfigure"], stdin="secret\n").wait(on_output=told.append)
    assert (job.state, job.status, job.argv) == ("exited", 7, ("gitlab-ctl", "reconfigure"))
    assert sorted(job.output().decode().splitlines()) == sorted(["one", "two", str(node.root), "0022", "got secret"])
    assert job.stderr() == "two\n" and "".join(told).encode() == job.output()
    assert job.started_at is not None
    with pytest.raises(CommandFailed, match="status 7"):
        job.check()
    assert node.job("reconfigure") == job and node.jobs() == [job]


def test_the_input_of_a_job_is_in_no_file_and_no_argument(node: SomeNode) -> None:
    assert node.root
    program(node, "gitlab-ctl", 'read line; cat "$GEOREG_NODE_ROOT/go" >/dev/null; echo "${#line}"')
    os.mkfifo(node.root / "go")
    job = node.start_job("secret", ["gitlab-ctl", "x"], stdin="correct-horse-battery\n")
    arguments = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(job.pid))
    assert b"gitlab-ctl" in arguments and b"correct-horse" not in arguments
    (node.root / "go").write_text("")
    assert job.wait().output() == b"21\n"
    assert not any(b"correct-horse" in path.read_bytes() for path in node.root.rglob("*") if path.is_file())


def test_a_job_without_input_reads_nothing(node: SomeNode) -> None:
    assert node.start_job("cat", ["cat"]).wait().output() == b""


def test_a_command_that_does_not_exist(node: SomeNode) -> None:
    job = node.start_job("none", ["no-such-program"]).wait()
    assert job.status == 127 and "no-such-program" in job.stderr()


def test_variables_and_folder(node: SomeNode) -> None:
    assert node.root
    (node.root / "var").mkdir()
    program(node, "show", 'pwd; echo "$A"')
    job = node.start_job("show", ["show"], env={"A": "b c"}, cwd="/var").wait()
    assert job.output().decode() == f"{node.root}/var\nb c\n"
    assert node.start_job("show", ["show"], cwd="/nowhere").wait().status == 125


def test_a_running_job_is_found_again_not_started_twice(node: SomeNode) -> None:
    assert node.root
    os.mkfifo(node.root / "go")
    program(node, "import", 'echo start >> "$GEOREG_NODE_ROOT/starts"; cat "$GEOREG_NODE_ROOT/go"')
    first = node.start_job("import", ["import"])
    again = node.start_job("import", ["import"])
    assert again == first and first.state == "running"
    with pytest.raises(StepFailed, match="still running"):
        first.forget()
    with pytest.raises(CommandTimeout, match="goes on by itself"):
        first.wait(timeout=0.2)
    until(lambda: node.exists("/starts"))
    (node.root / "go").write_text("imported\n")
    assert first.wait().check().output() == b"imported\n"
    assert node.read_file("/starts") == b"start\n"


def test_an_ended_job_is_replaced(node: SomeNode) -> None:
    program(node, "flaky", 'echo x >> "$GEOREG_NODE_ROOT/tries"; [ $(wc -l < "$GEOREG_NODE_ROOT/tries") = 2 ]')
    first = node.start_job("step", ["flaky"]).wait()
    second = node.start_job("step", ["flaky"]).wait()
    assert (first.status, second.status) == (1, 0)
    assert node.jobs() == [second]
    with pytest.raises(JobLost):
        first.refresh()


def test_a_forgotten_job_is_gone_and_its_name_free(node: SomeNode) -> None:
    node.start_job("step", ["true"]).wait().forget()
    assert node.job("step") is None and node.jobs() == []
    assert node.start_job("step", ["true"]).wait().status == 0


def _race(root: Path, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    LocalNode("n", [], root).start_job("import", ["import"])


def test_of_two_starters_one_starts(local: LocalNode) -> None:
    """Also when an ended start of that name is there, which both of them see."""
    assert local.root
    program(local, "import", 'echo start >> "$GEOREG_NODE_ROOT/starts"; sleep 1')
    context = multiprocessing.get_context("spawn")
    for expected in (1, 2):
        barrier = context.Barrier(4)
        starters = [context.Process(target=_race, args=(local.root, barrier)) for _ in range(4)]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join()
        assert [starter.exitcode for starter in starters] == [0, 0, 0, 0]
        job = local.job("import")
        assert job and job.wait().status == 0
        assert local.read_file("/starts").count(b"start") == expected


def test_a_starter_that_looked_long_ago_starts_nothing(node: SomeNode) -> None:
    """It saw no job at all; since then one has run, ended and been replaced by a running one."""
    assert node.root
    node.start_job("import", ["true"]).wait()
    os.mkfifo(node.root / "go")
    program(node, "import", 'cat "$GEOREG_NODE_ROOT/go"')
    running = node.start_job("import", ["import"])
    assert running.generation == 2 and node.list_dir(f"{JOBS}/import") == ["2"]
    shell = ["sh", "-c", jobs.SHELL, "georeg-job", "launch", jobs.SHELL, "", node.transport.path(JOBS)]
    late = node.transport.run(
        [*shell, "import", "1", "0", "/", "{}", "--", "touch", str(node.root / "twice")], stdin=b""
    )
    assert late.stdout == "taken\n"
    assert node.list_dir(f"{JOBS}/import") == ["2"] and not node.exists("/twice")
    (node.root / "go").write_text("")
    assert running.wait().status == 0


def test_input_that_did_not_arrive_starts_nothing(local: LocalNode, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LocalTransport.run

    def cut(self: LocalTransport, argv: list[str], **options: object) -> object:
        if options.get("stdin"):
            options["stdin"] = bytes(options["stdin"])[:-1]  # type: ignore[call-overload]
        return real(self, argv, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalTransport, "run", cut)
    with pytest.raises(ConnectionLost, match="input did not arrive"):
        local.start_job("step", ["cat"], stdin="password")
    assert local.jobs() == []


def test_a_job_goes_on_when_its_starter_is_killed(local: LocalNode) -> None:
    assert local.root
    os.mkfifo(local.root / "go")
    program(local, "import", 'cat "$GEOREG_NODE_ROOT/go"; echo finished')
    code = (
        "import os, signal, sys, pathlib; from georeg_nb.nodes import LocalNode;"
        "LocalNode('n', [], pathlib.Path(sys.argv[1])).start_job('import', ['import']);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    starter = subprocess.run([sys.executable, "-c", code, str(local.root)], start_new_session=True)
    assert starter.returncode == -signal.SIGKILL
    job = local.job("import")
    assert job and job.state == "running"
    (local.root / "go").write_text("go\n")
    assert job.wait().output() == b"go\nfinished\n"


def test_a_killed_job_is_lost(node: SomeNode) -> None:
    job = node.start_job("import", ["sleep", "600"])
    assert job.pid
    os.killpg(job.pid, signal.SIGKILL)
    lost = job.wait()
    assert (lost.state, lost.status) == ("lost", None)
    with pytest.raises(JobLost, match="without leaving its exit status"):
        lost.check()
    assert node.start_job("import", ["true"]).wait().status == 0


def test_a_job_whose_command_lives_on_is_running(node: SomeNode) -> None:
    """Only the waiting shell was killed: a second start would be two imports at once."""
    job = node.start_job("import", ["sleep", "600"])
    assert job.pid
    os.kill(job.pid, signal.SIGKILL)
    until(lambda: gone(job.pid or 0))
    assert job.refresh().state == "running"
    assert node.start_job("import", ["true"]).generation == job.generation


def test_a_job_that_a_restart_ended_is_lost(node: SomeNode) -> None:
    assert node.root
    job = node.start_job("import", ["sleep", "600"])
    boot = node.root / JOBS.lstrip("/") / "import/1/boot_id"
    before = boot.read_text()
    boot.write_text("another boot\n")
    assert job.refresh().state == "lost"
    boot.write_text(before)
    assert job.refresh().state == "running"


def test_a_process_number_that_is_somebody_elses_is_not_the_job(node: SomeNode) -> None:
    assert node.root
    job = node.start_job("import", ["sleep", "600"])
    assert job.pid
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    (node.root / JOBS.lstrip("/") / "import/1/pid").write_text(f"{os.getpid()} 1\n")
    assert job.refresh().state == ("running" if os.getsid(0) == os.getpid() else "lost")


def test_names_of_jobs_are_safe(node: SomeNode) -> None:
    for name in ("", "a/b", "..", "a b", "-x"):
        with pytest.raises(ValueError, match="not a name"):
            node.start_job(name, ["true"])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def gone(pid: int) -> bool:
    """Ended: also as a zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith(("Z", "X"))
    except (FileNotFoundError, ProcessLookupError):
        return True


def processes_of(session: int | None) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rpartition(") ")[2].split()[3]) == session:
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found

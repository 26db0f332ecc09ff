"""Nodes over SSH, with real servers behind a real jump host: each way to fail has its own message, nothing is sent
twice that may change something, and nothing is left behind. What a node does is in test_nodes.py, for every transport.
"""

from __future__ import annotations

import os
import pickle
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_http import Answer, scripted
from ssh_server import INTERNAL

from georeg_lab.pki import Authority
from georeg_lab.postgres import Cluster, free_port, new_password
from georeg_lab.sshd import SshServers
from georeg_nb.errors import (
    CommandTimeout,
    ConnectionLost,
    DatabaseRefused,
    HostKeyChanged,
    HostKeyUnknown,
    JobOutOfReach,
    LoginRefused,
    NodeHangs,
    NodeUnreachable,
    PrerequisiteError,
    SudoRefused,
    Unreachable,
)
from georeg_nb.http import HttpSession
from georeg_nb.metadata_db import MetadataDB
from georeg_nb.nodes import Master, SshNode, SshTarget, SshTransport, jobs
from georeg_nb.nodes.channel import COMMAND, Channel, ChannelClosed
from georeg_nb.parameters import DatabaseParameters


@pytest.fixture
def node(ssh_servers: SshServers, tmp_path: Path) -> Iterator[SshNode]:
    root = tmp_path / "node"
    root.mkdir()
    node = SshNode("primary-1", ["registry"], SshTarget("node", config=ssh_servers.ssh_config), root=root)
    yield node
    for job in node.jobs():
        if job.state == "running" and job.pid:
            os.killpg(job.pid, signal.SIGKILL)
    node.close()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def changed(servers: SshServers, folder: Path, old: str, new: str) -> SshTarget:
    """The node, by the servers' configuration with one text replaced."""
    text = servers.ssh_config.read_text()
    assert old in text
    (folder / "config").write_text(text.replace(old, new))
    return SshTarget("node", config=folder / "config")


def error_of(target: SshTarget) -> Unreachable:
    master = Master("primary-1", target)
    with pytest.raises(Unreachable) as caught:
        master.open()
    assert caught.value.node == "primary-1" and caught.value.remedy
    assert left_of(master) == []
    return caught.value


def left_of(master: Master) -> list[str]:
    """What is there of its connections: its folder, and every process that names it."""
    folder = str(master._folder)
    found = [folder] if master._folder.name and Path(folder).exists() else []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            found += [line] if master._folder.name and folder in line else []
    return found


# each failure has its own message


def test_nobody_listens_there(ssh_servers: SshServers, tmp_path: Path) -> None:
    port = ssh_servers.servers["node"].port
    error = error_of(changed(ssh_servers, tmp_path, f"Port {port}", f"Port {free_port()}"))
    assert type(error) is NodeUnreachable and "no SSH server answers" in str(error)


def test_the_jump_host_does_not_answer(ssh_servers: SshServers, tmp_path: Path) -> None:
    port = ssh_servers.servers["jump"].port
    error = error_of(changed(ssh_servers, tmp_path, f"Port {port}", f"Port {free_port()}"))
    assert type(error) is NodeUnreachable and "Connection refused" in str(error) and "jump host" in error.remedy


def test_the_key_is_not_let_in(ssh_servers: SshServers, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    error = error_of(changed(ssh_servers, tmp_path, f"{ssh_servers.folder}/user_key", f"{tmp_path}/other"))
    assert type(error) is LoginRefused and "Permission denied" in str(error)


def test_an_unknown_host_key_is_never_accepted(ssh_servers: SshServers, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("")
    known = f"{ssh_servers.folder}/known_hosts"
    error = error_of(changed(ssh_servers, tmp_path, known, str(tmp_path / "known")))
    assert type(error) is HostKeyUnknown and "fingerprint" in error.remedy
    assert (tmp_path / "known").read_text() == ""


def test_a_changed_host_key_is_told_as_that(ssh_servers: SshServers, tmp_path: Path) -> None:
    lines = (ssh_servers.folder / "known_hosts").read_text().splitlines()
    names, keys = [line.split(" ", 1)[0] for line in lines], [line.split(" ", 1)[1] for line in lines]
    port = f":{ssh_servers.servers['node'].port}"
    other = next(key for name, key in zip(names, keys, strict=True) if not name.endswith(port))
    mixed = [f"{name} {other if name.endswith(port) else key}" for name, key in zip(names, keys, strict=True)]
    (tmp_path / "known").write_text("\n".join(mixed) + "\n")
    known = f"{ssh_servers.folder}/known_hosts"
    error = error_of(changed(ssh_servers, tmp_path, known, str(tmp_path / "known")))
    assert type(error) is HostKeyChanged and "installed anew" in error.remedy


def test_sudo_that_asks_for_a_password(sudo_servers: SshServers) -> None:
    sudoers = sudo_servers.folder / "etc/sudoers"
    before = sudoers.read_text()
    transport = SshTransport("n", Master("n", SshTarget("node", config=sudo_servers.ssh_config)), sudo=True)
    sudoers.write_text(before.replace("NOPASSWD: ", ""))  # the same file: it is bound there
    try:
        with pytest.raises(SudoRefused, match="password is required") as caught:
            transport.run(["id", "-u"])
        assert "NOPASSWD" in caught.value.remedy
    finally:
        sudoers.write_text(before)
    assert transport.run(["id", "-u"]).stdout == "0\n"
    transport.close()


def test_no_ssh_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    master = Master("n", SshTarget("node"))
    with pytest.raises(PrerequisiteError, match="cannot start ssh"):
        master.open()
    assert left_of(master) == []


# commands


def test_the_commands_own_255_is_no_broken_connection(node: SshNode) -> None:
    result = node.transport.run(["sh", "-c", "echo out; echo err >&2; exit 255"])
    assert (result.status, result.stdout, result.stderr) == (255, "out\n", "err\n")
    assert node.transport.run(["sh", "-c", "kill -9 $$"]).status == 137


def test_what_a_login_prints_is_not_the_commands(ssh_servers: SshServers) -> None:
    master = Master("n", SshTarget("node", config=ssh_servers.ssh_config))
    transport = SshTransport("n", master)
    real = master.client
    master.client = lambda line: real(f"echo Welcome; echo warning >&2; {line}")  # type: ignore[method-assign]
    result = transport.run(["sh", "-c", "echo out; echo err >&2"])
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    transport.close()


def test_arguments_and_input_arrive_as_they_are(node: SshNode) -> None:
    words = ["it's", 'a "b"', "$HOME `id` \\n", "*", "", "two\nlines", "ü", "-n", "!x"]
    result = node.transport.run(["printf", "<%s>", *words])
    assert result.stdout == "".join(f"<{word}>" for word in words)
    data = bytes(range(256)) * 5000
    node.write_file("/data", data)
    assert node.read_file("/data") == data
    assert node.transport.read("/data", 1_279_990) == data[1_279_990:]


SHELLS = [shell for shell in ("dash", "bash", "sh") if shutil.which(shell)]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_request_that_is_cut_off_starts_nothing(tmp_path: Path, shell: str) -> None:
    words = f"/ -- touch {tmp_path}/ran".encode()
    whole = b"t %d 10\n%s0123456789t\n" % (len(words), words)
    for length in (1, 6, 8, 12, len(whole) - 12, len(whole) - 5, len(whole) - 2):
        argv = [shell, "-c", COMMAND, "georeg-commands"]
        done = subprocess.run(argv, input=whole[:length], capture_output=True, check=False)
        assert b"georeg-end" not in done.stdout + done.stderr and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_one_channel_answers_request_after_request(shell: str) -> None:
    """Whatever the node's shell is: nothing of one command is in the answer to the next."""
    channel = Channel([shell, "-c", COMMAND, "georeg-commands"])
    for number in range(20):
        stays = f"echo {number}; echo e{number} >&2; (sleep 0.05; echo late) & exit {number}"
        answer = channel.ask(shlex.join(["/", "A=b c", "--", "sh", "-c", stays]), b"", 20)
        assert (answer.status, answer.stdout, answer.stderr) == (number, b"%d\n" % number, b"e%d\n" % number)
    data = bytes(range(256)) * 999
    assert channel.ask("/ -- cat", data, 20).stdout == data
    assert channel.ask("/ -- cat", b"\ngeoreg-end t 0\n", 20).stdout == b"\ngeoreg-end t 0\n"
    killed = channel.ask("/ -- sh -c 'kill -9 $$'", b"data", 20)
    assert (killed.status, killed.stdout, killed.stderr) == (137, b"", b"")
    assert channel.ask("/nowhere -- true", b"", 20).status == 125
    assert channel.ask("/ -- 'no such'", b"", 20).status == 127
    channel.close()
    assert not channel.stands


@pytest.mark.parametrize("shell", SHELLS)
def test_a_command_that_never_stops_talking_has_its_time_too(shell: str) -> None:
    channel = Channel([shell, "-c", COMMAND, "georeg-commands"])
    with pytest.raises(subprocess.TimeoutExpired):
        channel.ask("/ -- sh -c 'while :; do echo; done'", b"", 0.5)
    channel.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_channel_that_closes_says_so(shell: str) -> None:
    channel = Channel([shell, "-c", COMMAND, "georeg-commands"])
    with pytest.raises(ChannelClosed) as caught:
        channel.ask("/ -- sh -c 'echo words >&2; kill -9 $PPID'", b"", 20)
    assert caught.value.said.endswith("words")
    channel.close()


def test_settings_of_the_users_configuration_do_not_get_in_the_way(ssh_servers: SshServers, tmp_path: Path) -> None:
    port = free_port()
    extra = f"ControlMaster auto\n    ControlPersist 60\n    ControlPath {tmp_path}/own\n    RemoteCommand id\n"
    extra += f"    RequestTTY force\n    LocalForward {port} 127.0.0.1:1\n    ForwardAgent yes\n"
    target = changed(ssh_servers, tmp_path, "Host node\n", f"Host node\n    {extra}")
    node = SshNode("primary-1", [], target)
    assert node.run(["uname", "-s"]).stdout == "Linux\n"
    assert listeners() & {port} == set()
    node.close()
    assert not (tmp_path / "own").exists()


def test_a_reader_that_was_cut_is_asked_again_and_a_change_is_not(node: SshNode, ssh_servers: SshServers) -> None:
    root = node.root
    ends: list[object] = []

    def run(changes: bool) -> None:
        script = f'echo start >> {root}/starts; [ "$(wc -l < {root}/starts)" != 1 ] || sleep 600'
        try:
            ends.append(node.transport.run(["sh", "-c", script], changes=changes).status)
        except ConnectionLost as error:
            ends.append(error)

    for changes, starts in ((False, 2), (True, 1)):
        thread = threading.Thread(target=run, args=(changes,))
        thread.start()
        until(lambda: node.root and (node.root / "starts").exists())
        ssh_servers.servers["node"].cut()
        thread.join(60)
        assert (root / "starts").read_text().count("start") == starts  # type: ignore[operator]
        (root / "starts").unlink()  # type: ignore[operator]
    assert ends[0] == 0
    assert isinstance(ends[1], ConnectionLost) and "run again" in ends[1].remedy
    assert node.run(["uname", "-s"]).stdout == "Linux\n"


def test_what_was_cut_off_is_ended_on_the_node(node: SshNode, ssh_servers: SshServers) -> None:
    script = f"echo $$ > {node.root}/pid; exec sleep 600"
    with pytest.raises(CommandTimeout):
        node.transport.run(["sh", "-c", script], timeout=3)
    until(lambda: not alive(int(node.read_file("/pid"))))


def test_a_node_that_hangs_is_given_up(ssh_servers: SshServers) -> None:
    target = SshTarget("node", config=ssh_servers.ssh_config)
    transport = SshTransport("primary-1", Master("primary-1", target, keepalive=(1, 6)))
    assert transport.run(["true"]).status == 0
    server = ssh_servers.servers["node"]
    server.cut(signal.SIGSTOP)
    try:
        with pytest.raises(NodeHangs, match="has not answered for 6 s") as caught:
            transport.run(["true"], changes=True)
        assert "go on by themselves" in caught.value.remedy
    finally:
        server.cut(signal.SIGCONT)
    assert transport.run(["true"]).status == 0
    transport.close()


# jobs


def test_a_job_goes_on_through_a_cut_and_is_found_by_its_name(node: SshNode, ssh_servers: SshServers) -> None:
    """Who waits for it makes the connection again, and misses nothing of its output."""
    assert node.root
    os.mkfifo(node.root / "go")
    script = 'echo begun; cat "$GEOREG_NODE_ROOT/go"; echo ended'
    job = node.start_job("import", ["sh", "-c", script])
    told: list[str] = []
    ends: list[object] = []
    waiter = threading.Thread(target=lambda: ends.append(job.wait(on_output=told.append)))
    waiter.start()
    until(lambda: "begun\n" in told)
    for _ in range(2):
        ssh_servers.servers["node"].cut()
        ssh_servers.servers["jump"].cut()
        assert node.start_job("import", ["sh", "-c", script]).generation == job.generation
    (node.root / "go").write_text("more\n")
    waiter.join(60)
    assert "".join(told) == "begun\nmore\nended\n" and ends[0].status == 0  # type: ignore[attr-defined]


def test_a_job_whose_node_stays_away_goes_on_and_that_is_said(
    node: SshNode, ssh_servers: SshServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "RECONNECT_SECONDS", 0)
    job = node.start_job("import", ["sleep", "600"])
    ssh_servers.stop()
    try:
        with pytest.raises(JobOutOfReach, match="no SSH server answers") as caught:
            job.wait()
        assert isinstance(caught.value, CommandTimeout)  # which every step knows: nothing may be put back now
        assert "goes on by itself" in caught.value.remedy and pickle.loads(pickle.dumps(caught.value)).argv == job.argv
        assert job.pid and alive(job.pid)
    finally:
        ssh_servers.start()
    assert node.start_job("import", ["true"]).state == "running"


@pytest.mark.parametrize("started", [True, False])
def test_a_start_that_was_cut_off_is_asked_for_once_more_and_happens_once(
    node: SshNode, ssh_servers: SshServers, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    """Before the command arrived, or after the job was started and before its answer came."""
    assert node.root
    real, cuts = SshTransport.run, 0

    def cut_once(self: SshTransport, argv: list[str], **options: object) -> object:
        nonlocal cuts
        if options.get("changes") and not cuts:
            cuts += 1
            if started:
                real(self, argv, **options)  # type: ignore[arg-type]
            raise ConnectionLost("cut")
        return real(self, argv, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(SshTransport, "run", cut_once)
    job = node.start_job("import", ["sh", "-c", 'echo start >> "$GEOREG_NODE_ROOT/starts"; sleep 1'])
    assert job.wait().status == 0 and cuts == 1 and job.generation == 1
    assert node.read_file("/starts") == b"start\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can show a process a /run where systemd is at work")
def test_where_systemd_runs_it_starts_the_job(tmp_path: Path) -> None:
    """Its own program is replaced by one that does as it says; options and answer, input and arguments are real."""
    fake = tmp_path / "systemd-run"
    fake.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/asked\n'
        'while case $1 in -*) true ;; *) false ;; esac; do shift; done\nsetsid "$@" </dev/null >/dev/null 2>&1 &\n'
    )
    fake.chmod(0o755)
    code = (
        "import sys; from georeg_nb.nodes import LocalNode, jobs; jobs.JOBS = sys.argv[1];"
        """argv = ['sh', '-c', 'read l; echo "$l|$1"', 'x', "it's $HOME %n\\n\\n"];"""
        "job = LocalNode('n', []).start_job('import', argv, stdin='secret\\n').wait();"
        "print(job.state, job.status, job.output())"
    )
    inside = 'mount -t tmpfs none /run && mkdir -p /run/systemd/system && PATH="$0:$PATH" && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inside, str(tmp_path), sys.executable, "-c", code, str(tmp_path / "jobs")],
        capture_output=True,
        text=True,
        check=False,
    )
    output = b"secret|it's $HOME %n\n\n\n"
    assert done.stdout == f"exited 0 {output!r}\n", done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[: len(jobs.systemd_options("import"))] == jobs.systemd_options("import")
    assert asked[-2] == "/bin/sh" and "secret" not in " ".join(asked)
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["import"]


def test_what_systemd_is_asked_for() -> None:
    assert jobs.systemd_options("primary-import") == [
        "--quiet",
        "--no-ask-password",
        "--collect",
        "--unit=georeg-primary-import.service",
        "--property=KillMode=process",
    ]
    with pytest.raises(ValueError, match="not a name"):
        jobs.systemd_options("a b")


# ways through the node


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Authority]]:
    """A PostgreSQL that takes TLS only, whose certificate holds nothing but a name that only the node knows."""
    folder = tmp_path_factory.mktemp("behind")
    authority = Authority(folder / "pki")
    cluster = Cluster(folder / "data", free_port(), new_password())
    cluster.init()
    cluster.enable_tls(*authority.issue("internal", INTERNAL))
    cluster.start()
    yield cluster, authority
    cluster.remove()


def database_of(
    cluster: Cluster, ca: Path, monkeypatch: pytest.MonkeyPatch, host: str = INTERNAL
) -> DatabaseParameters:
    monkeypatch.setenv("REGISTRY_PASSWORD", cluster.password)
    values = {"host": host, "port": cluster.port, "name": "postgres", "user": cluster.superuser, "ca": ca}
    return DatabaseParameters.model_validate({**values, "password": "env:REGISTRY_PASSWORD", "sslmode": "verify-full"})


@pytest.fixture
def inner(sudo_servers: SshServers) -> Iterator[SshNode]:
    node = SshNode("primary-1", ["registry"], SshTarget("node", config=sudo_servers.ssh_config), sudo=True)
    yield node
    node.close()


def test_a_database_that_only_the_node_reaches(
    inner: SshNode, sudo_servers: SshServers, behind: tuple[Cluster, Authority], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, authority = behind
    parameters = database_of(cluster, authority.certificate_file, monkeypatch)
    with pytest.raises(DatabaseRefused, match=r"not known|resolve|failure"):
        MetadataDB(parameters).server()
    through = MetadataDB(parameters, route=inner.route)
    assert through.server().tls
    sudo_servers.servers["node"].cut()
    assert through.server().tls
    other = database_of(cluster, authority.certificate_file, monkeypatch, "127.0.0.1")
    with pytest.raises(DatabaseRefused, match="certificate"):
        MetadataDB(other, route=inner.route).server()
    away = parameters.model_copy(update={"port": free_port()})
    with pytest.raises(DatabaseRefused, match="closed the connection") as caught:
        MetadataDB(away, route=inner.route).server()
    assert "as the node reaches them" in caught.value.remedy


def test_https_that_only_the_node_reaches(inner: SshNode, behind: tuple[Cluster, Authority]) -> None:
    _, authority = behind
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("internal", INTERNAL))
    with scripted(context) as server:
        for path in ("/a", "/b"):
            server.plan("GET", path, Answer(body=b"safe"))
        base = f"https://{INTERNAL}:{server.port}"
        server.plan("GET", "/moved", Answer(302, headers={"Location": f"{base}/b"}))
        with HttpSession(base, ca=authority.certificate_file, route=inner.route) as session:
            assert session.get("/a").content == b"safe"
            assert session.get("/moved", follow=True).content == b"safe"
        assert {request.headers["Host"] for request in server.requests} == {f"{INTERNAL}:{server.port}"}
        wrong = HttpSession(f"https://127.0.0.1:{server.port}", ca=authority.certificate_file, route=inner.route)
        with wrong as session, pytest.raises(Unreachable, match="certificate is refused"):
            session.get("/a")
        with HttpSession(base, retries=0) as session, pytest.raises(Unreachable, match="name is unknown"):
            session.get("/a")


def test_a_route_can_be_sent_to_another_process(ssh_servers: SshServers) -> None:
    master = Master("n", SshTarget("node", config=ssh_servers.ssh_config))
    there = [pickle.loads(pickle.dumps(master.forward)) for _ in range(2)]
    assert there[0] == there[1]


# nothing is left


def listeners() -> set[int]:
    """Ports of this machine that somebody listens on."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return {int(line.split()[1].split(":")[1], 16) for line in lines if line.split()[3] == "0A"}


def alive(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith(("Z", "X"))
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_closed_node_leaves_no_listener_process_or_folder(ssh_servers: SshServers) -> None:
    master = Master("n", SshTarget("node", config=ssh_servers.ssh_config))
    transport = SshTransport("n", master)
    _, port = master.forward("127.0.0.1", 1)
    assert master.forward("127.0.0.1", 1) == ("127.0.0.1", port) and port in listeners()
    folder = master._folder
    assert folder.stat().st_mode & 0o777 == 0o700 and len(str(folder / "s")) < 104
    assert transport.run(["true"]).status == 0
    transport.close()
    assert port not in listeners() and not folder.exists()
    until(lambda: not ssh_servers.servers["node"].sessions())
    assert left_of(master) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_killed_leaves_nothing_either(ssh_servers: SshServers, tmp_path: Path, how: int) -> None:
    """Its job goes on, and the next run finds it by its name."""
    code = (
        "import sys, time; from pathlib import Path; from georeg_nb.nodes import SshNode, SshTarget;"
        "node = SshNode('n', [], SshTarget('node', config=Path(sys.argv[1])), root=Path(sys.argv[2]));"
        "node.start_job('import', ['sh', '-c', 'sleep 600']);"
        "print(node.route('127.0.0.1', 1)[1], node.transport.master._folder, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(ssh_servers.ssh_config), str(tmp_path)]
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # begun in the background, a session ignores it
    )
    assert run.stdout
    port, folder = run.stdout.readline().split()
    assert int(port) in listeners() and Path(folder).exists()
    run.send_signal(how)
    run.wait(60)
    run.stdout.close()
    until(lambda: int(port) not in listeners() and not Path(folder).exists())
    until(lambda: not ssh_servers.servers["node"].sessions() and not ssh_servers.servers["jump"].sessions())
    node = SshNode("n", [], SshTarget("node", config=ssh_servers.ssh_config), root=tmp_path)
    job = node.job("import")
    assert job and job.state == "running" and job.pid
    os.killpg(job.pid, signal.SIGKILL)
    node.close()


def test_a_folder_with_a_long_path_is_not_taken(ssh_servers: SshServers, monkeypatch: pytest.MonkeyPatch) -> None:
    long = ssh_servers.folder / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    master = Master("n", SshTarget("node", config=ssh_servers.ssh_config))
    master.open()
    assert long not in master._folder.parents
    master.close()
    assert list(long.iterdir()) == []
    shutil.rmtree(long)

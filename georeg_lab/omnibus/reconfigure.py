"""`gitlab-ctl reconfigure`: evaluates gitlab.rb, renders files, sets services up, migrates, restarts what changed.

Traps kept: restarts come last, also when the migrations fail; a service that does not come up does not fail the run;
config.yml's diff on stdout shows its secrets. Source: procedures 4.5 to 4.7, 3.2.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from georeg_lab.layout import inside
from georeg_lab.omnibus import bundled, files, geo_databases, secrets_file, services, templates
from georeg_lab.omnibus.definitions import RAILS_DEPENDANTS, definitions
from georeg_lab.omnibus.migrate import MigrationsFailed
from georeg_lab.omnibus.node_state import (
    NODES,
    evaluate_node,
    package_profile,
    write_node_attributes,
    write_public_attributes,
)
from georeg_lab.omnibus.render import Rendered
from georeg_lab.omnibus.ruby_values import Refused, RubyError, to_text, truthy

LOGS = "/var/log/gitlab/reconfigure"
LOCK = "/opt/gitlab/embedded/cookbooks/cache/cinc-client-running.pid"
BOOTSTRAPPED = "/var/opt/gitlab/bootstrapped"
RAILS_ETC = templates.RAILS_ETC
REGISTRY_ENV = "/opt/gitlab/etc/registry/env"
TRUSTED, CERTS = "/etc/gitlab/trusted-certs", "/opt/gitlab/embedded/ssl/certs"
ENVIRONMENT = {"SSL_CERT_DIR": f"{CERTS}/", "GODEBUG": "tlsmlkem=0"}
PREFER_OVERRIDDEN = (
    "Registry database mode is set to 'prefer', but GitLab-managed PostgreSQL is disabled. "
    "The registry will be configure to use filesystem metadata instead of the database."
)


class Failed(Exception):
    """The run stops with this message."""


class Run:
    """One reconfigure of a node. `out` takes what goes to stdout, `err` what goes to stderr."""

    def __init__(self, root: Path, out: Callable[[str], object], err: Callable[[str], object]) -> None:
        self.root = root
        self.out = out
        self.err = err
        self.profile = package_profile(root)
        self.restarts: dict[str, None] = {}  # in order of notification
        self.log_file = inside(root, f"{LOGS}/{int(time.time())}.log")

    def log(self, text: str, level: str = "INFO") -> None:
        """A line of the run's own log; no secrets."""
        with self.log_file.open("a") as log:
            log.write(f"[{time.strftime('%Y-%m-%dT%H:%M:%S%z')}] {level}: {text}\n")

    def execute(self) -> int:
        """The whole run; 0, or 1 after a failure."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self.log_file.touch(mode=0o600)
        with self._locked():
            for old in inside(self.root, NODES).glob("*.json"):
                old.unlink()
            try:
                self._converge()
            except (RubyError, Refused, Failed, OSError, ValueError) as error:
                message = error.message if isinstance(error, RubyError) else str(error)
                # what the class says may hold a value of gitlab.rb; a Ruby error names methods and settings alone
                said = message.splitlines()[0] if isinstance(error, RubyError | MigrationsFailed) and message else ""
                self.log(f"failed: {type(error).__name__}: {said}", "FATAL")
                self.err(f"There was an error running gitlab-ctl reconfigure:\n\n{message}\n\n")
                return 1
        self.out("\nRunning handlers:\nRunning handlers complete\ngitlab Reconfigured!\n")
        return 0

    def _converge(self) -> None:
        self.out(f"Starting Cinc Client\nNode {platform.node()}, GitLab {self.profile.version}\n")
        kept = secrets_file.load(self.root)
        rendered = evaluate_node(self.root, self.profile, kept)
        for warning in rendered.rails_warnings + rendered.warnings:
            self.err(warning + "\n")
        secrets_file.complete(self.root, rendered, kept)
        self.out("Converging resources\n")
        enabled = rendered.section("gitlab_rails").get("enable")
        if enabled is None or truthy(enabled):
            self._rails(rendered)
        self._trusted_certificates()
        if rendered.registry_enabled:
            self._registry(rendered)
        try:
            self._services(rendered)
            if rendered.registry_enabled:
                self._migrate(rendered)
        finally:
            self._restart()
        write_node_attributes(self.root, rendered)
        write_public_attributes(self.root, rendered)
        files.write(inside(self.root, BOOTSTRAPPED), "", 0o644)
        if truthy((rendered.section("registry").get("database") or {}).get("_prefer_mode_overridden")):
            self.out(f"\nWarnings:\n{PREFER_OVERRIDDEN}\n")

    # -- files -------------------------------------------------------------------------------------------------------

    def _file(self, path: str, text: str, mode: int, *, sensitive: bool = True) -> bool:
        file = inside(self.root, path)
        before = file.read_text() if file.is_file() else ""
        changed = files.write(file, text, mode)
        if changed:
            self.out(f"  * file[{path}] action create\n    - update content in file {path}\n")
            if not sensitive:
                lines = difflib.unified_diff(before.splitlines(), text.splitlines(), path, path, lineterm="")
                self.out("".join(f"    {line}\n" for line in lines))
            self.log(f"file[{path}] updated file contents {path}")
        return changed

    def _folder(self, path: str, mode: int) -> None:
        folder = inside(self.root, path)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)

    def _notify(self, *names: str) -> None:
        self.restarts |= dict.fromkeys(names)

    def _rails(self, rendered: Rendered) -> None:
        self._folder(RAILS_ETC, 0o700)
        self._folder("/var/log/gitlab/gitlab-rails", 0o700)
        rails = rendered.section("gitlab_rails")
        geo = None
        if rendered.geo_role == "secondary":
            secondary = rendered.section("geo_secondary")
            secondary.default(
                "db_host", rendered.section("geo_postgresql").get("dir") or "/var/opt/gitlab/geo-postgresql"
            )
            secondary.default("db_port", 5431)
            geo = secondary
        secret_keys = ("secret_key_base", "db_key_base", "otp_key_base")
        changed = [
            self._file(f"{RAILS_ETC}/gitlab.yml", templates.gitlab_yml(rails), 0o640),
            self._file(f"{RAILS_ETC}/database.yml", templates.database_yml(rails, geo), 0o640),
            self._file(
                f"{RAILS_ETC}/secrets.yml", templates.secrets_yml({key: rails[key] for key in secret_keys}), 0o600
            ),
        ]
        if truthy(rails.get("registry_enabled")):
            key = to_text(rails.get("registry_key_path") or f"{RAILS_ETC}/gitlab-registry.key")
            self._file(key, rendered.section("registry")["internal_key"], 0o600)
        if any(changed):
            self._notify(*RAILS_DEPENDANTS)

    def _trusted_certificates(self) -> None:
        target = inside(self.root, CERTS)
        target.mkdir(parents=True, exist_ok=True)
        for certificate in sorted(inside(self.root, TRUSTED).glob("*")):
            link = target / certificate.name
            if certificate.is_file() and not os.path.lexists(link):
                link.symlink_to(os.path.relpath(certificate, target))

    def _registry(self, rendered: Rendered) -> None:
        registry, rails = rendered.section("registry"), rendered.section("gitlab_rails")
        folder = to_text(registry.get("dir") or templates.REGISTRY_DIR)
        self._folder(folder, 0o2770)
        self._folder("/var/log/gitlab/registry", 0o700)
        self._folder(to_text(rails["registry_path"]), 0o770)
        environment = {**ENVIRONMENT, **(registry.get("env") or {})}
        changed = [self._file(f"{REGISTRY_ENV}/{name}", to_text(text), 0o640) for name, text in environment.items()]
        for file in inside(self.root, REGISTRY_ENV).iterdir():
            if file.name not in environment:
                file.unlink()
                changed.append(True)
        self._file(f"{folder}/gitlab-registry.crt", registry["internal_certificate"], 0o644)
        changed.append(self._file(f"{folder}/config.yml", rendered.config_yml(), 0o644, sensitive=False))
        changed.append(self._file(f"{folder}/VERSION", self._registry_version(), 0o644))
        if any(changed):
            self._notify("registry")

    def _registry_version(self) -> str:
        import subprocess

        program = inside(self.root, "/opt/gitlab/embedded/bin/registry")
        done = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(
                "Execution of the command `/opt/gitlab/embedded/bin/registry --version` failed with a non-zero exit "
                f"code ({done.returncode})\nstdout: {done.stdout}\nstderr: {done.stderr}"
            )
        return done.stdout

    # -- services ----------------------------------------------------------------------------------------------------

    def _services(self, rendered: Rendered) -> None:
        if geo_databases.prepare(self.root, rendered):
            self.out("  * template[/var/opt/gitlab/postgresql/data/postgresql.conf] action create\n")
        wanted = definitions(self.root, rendered)
        starting = []
        for name, definition in wanted.items():
            new = not services.enabled(self.root, name)
            changed = services.define(self.root, name, definition)
            services.enable(self.root, name)
            state = services.status(self.root, name)
            if state.pid is None and (new or state.wanted or not inside(self.root, BOOTSTRAPPED).exists()):
                starting.append(name)
            elif changed and name not in services.DATABASES:
                self._notify(name)
        for name in services.names(self.root):
            if name not in wanted and services.enabled(self.root, name):
                self.out(f"  * runit_service[{name}] action disable\n")
                services.disable(self.root, name)
        if "nginx" in wanted and self._file("/run/lab.json", templates.lab_json(rendered), 0o600):
            self._notify("nginx")
        if starting:
            self.out(f"  * runit_service[{', '.join(starting)}] action enable\n")
            services.start(self.root, [name for name in starting if name in services.DATABASES])
        geo_databases.provision(self.root, rendered)
        if bundled.provision(self.root, rendered):
            self.out("  * registry_database_objects[registry] action create\n")
        services.start(self.root, [name for name in starting if name not in services.DATABASES])
        self.restarts = {name: None for name in self.restarts if name not in starting}

    def _restart(self) -> None:
        names = [name for name in self.restarts if services.enabled(self.root, name)]
        running = [n for n in names if n == "registry" or services.status(self.root, n).pid is not None]
        for name in running:
            self.out(f"  * runit_service[{name}] action restart\n")
            self.log(f"runit_service[{name}] restarted")
        for state in services.restart(self.root, running):
            if state.pid is None:
                self.log(f"runit_service[{state.name}] is not up: {state.text}")

    def _migrate(self, rendered: Rendered) -> None:
        from georeg_lab.omnibus.migrate import migrate

        migrate(self.root, self.profile, rendered, self.out)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = inside(self.root, LOCK)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                other = lock.read().strip()
                self.out(f"Cinc Client {other} is running, will wait for it to finish and then run.\n")
                fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield


def main(root: Path, words: list[str]) -> int:
    """Entry of the command."""

    def out(text: str) -> Any:
        return sys.stdout.write(text)

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return Run(root, out, sys.stderr.write).execute()

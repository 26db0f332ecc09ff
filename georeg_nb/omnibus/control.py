"""One node's GitLab package: what it rendered, what runs, and gitlab.rb changed as a unit.

A change of gitlab.rb is: copy kept (0600) → written → syntax checked by GitLab's own Ruby → reconfigured as a
detached job → rendered files compared with what was wanted → health. Whatever fails, the copy is put back and
reconfigured again. Source: procedures 4.1, 4.5, design "Talking to the sites".
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from georeg_nb import redaction
from georeg_nb.errors import CommandTimeout, GeoregError, JobLost, NodeFileMissing, StepFailed
from georeg_nb.nodes import Job, Node
from georeg_nb.omnibus.rendered import (
    GITLAB_YML,
    LOCKFILES,
    PUBLIC_ATTRIBUTES,
    REGISTRY_CONFIG,
    REGISTRY_FOLDER,
    REGISTRY_SERVICE,
    REGISTRY_VERSION,
    VERSION_MANIFEST,
    GitlabYml,
    RegistryConfig,
    Service,
    parse_status,
)

GITLAB_RB = "/etc/gitlab/gitlab.rb"
SECRETS = "/etc/gitlab/gitlab-secrets.json"
CLUSTER = "/etc/gitlab/gitlab-cluster.json"
BACKUPS = "/var/lib/georeg/backups"
KEPT_COPIES = 3
RECONFIGURE = ("gitlab-ctl", "reconfigure")
RECONFIGURE_LIMIT = 45 * 60.0  # seconds; it takes 1 to 5 minutes, and much longer only when something hangs
COMMAND_LIMIT = 60 * 60.0

Progress = Callable[[str], object]


@dataclass(frozen=True)
class Lockfiles:
    """Which lock files lie in the registry's storage (registry 3). None: the storage cannot be looked at from the
    node.
    """

    database: bool | None
    filesystem: bool | None

    def __str__(self) -> str:
        if self.database is None:
            return "not known (object storage)"
        names = [
            name
            for name, there in (("database-in-use", self.database), ("filesystem-in-use", self.filesystem))
            if there
        ]
        return " and ".join(names) or "none"


class Omnibus:
    """The package on one node. Reading works on a read-only node too; everything else raises ReadOnlySite there."""

    def __init__(self, node: Node, *, progress: Progress | None = None) -> None:
        self.node = node
        self._progress = progress or (lambda text: None)

    # what is

    def gitlab_rb(self) -> str:
        """Text of gitlab.rb; its secrets are masked everywhere from now on."""
        text = self.node.read_file(GITLAB_RB).decode()
        redaction.register_from_gitlab_rb(text)
        return text

    def registry_config(self) -> RegistryConfig | None:
        """The registry's rendered configuration; None before one was rendered."""
        try:
            return RegistryConfig.parse(self._read(REGISTRY_CONFIG))
        except NodeFileMissing:
            return None

    def gitlab_yml(self) -> GitlabYml:
        """Rails' rendered configuration. Raises NodeFileMissing before the first reconfigure."""
        return GitlabYml.parse(self._read(GITLAB_YML))

    def version(self) -> str:
        """Package and version, e.g. `gitlab-ee 18.7.7`."""
        return self.node.read_file(VERSION_MANIFEST).decode().splitlines()[0].strip()

    def registry_version(self) -> str:
        """e.g. `v4.32.0-gitlab`: of the installed program, by the file that reconfigure wrote (what the program
        printed).
        """
        text = self.node.read_file(REGISTRY_VERSION).decode().strip()
        return text.split()[-1] if text else ""

    def registry_is_enabled(self) -> bool:
        """Effective state: rendered, and its service is linked (procedures 2.0)."""
        return self.node.exists(REGISTRY_CONFIG) and self.node.exists(REGISTRY_SERVICE)

    def registry_folder(self) -> str:
        """Where the last reconfigure put the registry's files: `registry['dir']`."""
        return str(self._attribute("registry", "dir") or REGISTRY_FOLDER)

    def bundled_port(self) -> int:
        """Where the package's own PostgreSQL listens: `postgresql['port']`."""
        return int(self._attribute("postgresql", "port") or 5432)

    def _attribute(self, section: str, name: str) -> Any:
        """What the last reconfigure made public; None where it tells nothing."""
        try:
            attributes = json.loads(self._read(PUBLIC_ATTRIBUTES))
        except (NodeFileMissing, ValueError):
            return None
        return (attributes.get(section) or {}).get(name)

    def service(self, name: str) -> Service | None:
        """The supervisor's word on a service; None when it does not know it."""
        return parse_status(self.node.run(["gitlab-ctl", "status", name], check=False).stdout).get(name)

    def lockfiles(self) -> Lockfiles:
        """Lock files in the registry's storage, where the filesystem driver is used."""
        config = self.registry_config()
        root = config.root_directory if config else None
        if not root:
            return Lockfiles(None, None)
        return Lockfiles(
            *(self.node.exists(f"{root}/{LOCKFILES}/{name}-in-use") for name in ("database", "filesystem"))
        )

    def promoted(self) -> bool:
        """Whether `gitlab-ctl geo promote` left its file, which overrules the roles in gitlab.rb (procedures 2.0)."""
        return self.node.exists(CLUSTER)

    def syntax_error(self) -> str:
        """What GitLab's own Ruby says against gitlab.rb; empty when it parses."""
        result = self.node.run(["/opt/gitlab/embedded/bin/ruby", "-c", GITLAB_RB], check=False)
        return "" if result.status == 0 else (result.stderr or result.stdout).strip()

    def _read(self, path: str) -> str:
        return self.node.read_file(path).decode()

    # jobs

    def run_job(
        self,
        name: str,
        argv: Sequence[str],
        *,
        limit: float = COMMAND_LIMIT,
        on_output: Callable[[str], object] | None = None,
        private: bool = False,
        stdin: str | None = None,
    ) -> Job:
        """Start a detached command, or follow the one of that name that is running; return it ended, whatever its
        status. `private`: its output may hold secrets, and the caller forgets it. `stdin`: what it asks for.
        """
        present = self.node.job(name)
        if present and present.state == "running":
            self._progress(f"{name} is already running: following it")
        job = self.node.start_job(name, argv, private=private, stdin=stdin)
        return job.wait(limit, on_output)

    def reconfigure(self, name: str) -> None:
        """`gitlab-ctl reconfigure` as a job. Raises CommandFailed, JobLost or CommandTimeout.

        It prints the changes of config.yml with their secrets (procedures 4.5): nothing of it stays on the node.
        """
        self._progress("gitlab-ctl reconfigure")
        job = self.run_job(name, RECONFIGURE, limit=RECONFIGURE_LIMIT, private=True)
        try:
            if job.status != 0:
                self._mask_secrets()
            job.check()
        finally:
            job.forget()

    def _mask_secrets(self) -> None:
        """Whatever GitLab generated for itself may stand in what a failed command says."""
        with suppress(NodeFileMissing):
            redaction.register_from_yaml(self._read(SECRETS))

    def leftovers(self) -> list[str]:
        """What runs that were killed left here: output that may hold secrets, and copies of gitlab.rb."""
        return [*(job.name for job in self._private_jobs()), *self._copies()]

    def tidy(self) -> None:
        """Remove the leftovers. For when nothing is left to do: until then a copy may be what somebody needs."""
        for job in self._private_jobs():
            job.forget()
        for path in self._copies():
            self.node.remove_file(path)

    def _private_jobs(self) -> list[Job]:
        return [job for job in self.node.jobs() if job.private and job.state != "running"]

    def _copies(self) -> list[str]:
        try:
            return [f"{BACKUPS}/{name}" for name in self.node.list_dir(BACKUPS)]
        except NodeFileMissing:
            return []

    def _forget_old_copies(self) -> None:
        """Of the copies that killed runs left only the newest stay: each holds the secrets of gitlab.rb."""
        newest_first = self.node.run(["ls", "-1t", BACKUPS], check=False).stdout.splitlines()
        for name in newest_first[KEPT_COPIES:]:
            self.node.remove_file(f"{BACKUPS}/{name}")

    # gitlab.rb as a unit

    def change(
        self, name: str, edit: Callable[[str], str], differences: Callable[[], list[str]], *, patience: float = 90
    ) -> None:
        """Change gitlab.rb by `edit`, reconfigure, and see that the node is as wanted.

        `name` is the job's; `differences` reads the node and lists what is not as wanted yet (also its health); it is
        asked again for `patience` seconds, because services need a moment to come up. Raises StepFailed after putting
        the file back. A reconfigure of that name that an earlier, killed run left running is followed first.
        """
        left = self.node.job(name)
        if left and left.state == "running":
            self.run_job(name, RECONFIGURE, limit=RECONFIGURE_LIMIT).forget()
        backup = f"{BACKUPS}/{name}.gitlab.rb"
        text = self.gitlab_rb()
        after, before = edit(text), text
        if self.node.exists(backup):
            kept = self.node.read_file(backup).decode()
            if edit(kept) == text:  # an earlier run was killed after it wrote: its copy is the true state before
                before = kept
        self.node.write_file(backup, before.encode(), mode=0o600)
        try:
            if after != text:
                self.node.write_file(GITLAB_RB, after.encode())
            if problem := self.syntax_error():
                raise StepFailed(f"gitlab.rb would not parse: {problem}", node=self.node.name)
            self.reconfigure(name)
            self._await(differences, patience)
        except (CommandTimeout, JobLost) as error:
            # a reconfigure may still be at work: starting another one would only queue behind it
            error.remedy += f"; the file as it was before is kept as {backup}"
            raise
        except GeoregError as error:
            self._put_back(name, before, after, backup, error)
        self.node.remove_file(backup)
        self._forget_old_copies()

    def _await(self, differences: Callable[[], list[str]], patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            try:
                left = differences()
            except GeoregError as error:  # e.g. the registry does not answer yet
                left = [error.message]
            if not left:
                return
            if time.monotonic() >= deadline:
                raise StepFailed("after the reconfigure: " + "; ".join(left), node=self.node.name)
            time.sleep(0.5)

    def _put_back(self, name: str, before: str, after: str, backup: str, error: GeoregError) -> None:
        """Restore gitlab.rb after a failed change and raise StepFailed, saying what state the node is in."""
        if self.gitlab_rb() != after:
            raise StepFailed(
                f"{error.message}\n  gitlab.rb was changed by somebody else meanwhile, so it was left as it is",
                remedy=f"compare it with {backup}, correct it, run `gitlab-ctl reconfigure`, then run this again",
                node=self.node.name,
            ) from error
        self._progress("putting gitlab.rb back")
        self.node.write_file(GITLAB_RB, before.encode())
        self.node.remove_file(backup)
        try:
            self.reconfigure(f"{name}-back")
        except GeoregError as second:
            raise StepFailed(
                f"{error.message}\n  gitlab.rb is as before, but the reconfigure with it failed too: {second.message}",
                remedy=f"run `gitlab-ctl reconfigure` on {self.node.name} and mend what it says; then run this again",
                node=self.node.name,
            ) from error
        raise StepFailed(
            f"{error.message}\n  gitlab.rb was put back and reconfigured: the node is as it was before",
            remedy=error.remedy or "mend the cause, then run this again: nothing else was changed",
            node=self.node.name,
        ) from error

"""What can go wrong, one class for each thing that a person can do something about.

    GeoregError
    ├── ParametersError          the parameters are wrong; nothing was contacted            (exit 2)
    │   └── SecretUnavailable    a secret reference leads nowhere
    ├── PrerequisiteError        a check failed; the change it guards was not made           (exit 3)
    │   ├── SiteLocked           another run holds the site
    │   ├── ApprovalFallen       the plan changed after it was approved
    │   └── Unreachable          a host, database or API does not answer, or refuses us
    │       ├── NodeUnreachable  no SSH server answers at a node's address
    │       ├── LoginRefused     a node does not let this account in
    │       ├── SudoRefused      the account may not become root without a password
    │       ├── HostKeyUnknown   a node's host key is not known to this machine yet
    │       ├── HostKeyChanged   a node shows another host key than before
    │       ├── ConnectionLost   the connection to a node broke
    │       │   └── NodeHangs    the connection stands, and the node does not answer
    │       ├── HttpRefused      an HTTP answer that is no success
    │       └── DatabaseRefused  PostgreSQL refuses the connection or the statement
    ├── StepFailed               a change did not work or its proof failed                   (exit 4)
    │   ├── CommandFailed        a command on a node ended with a status other than 0
    │   ├── CommandTimeout       a command on a node did not end in time
    │   │   └── JobOutOfReach    a job's node cannot be reached any more; it goes on by itself
    │   ├── JobLost              a detached job ended without leaving its exit status
    │   └── NodeFileMissing      a file that should be on a node is not
    ├── NeedsApproval            something still needs approval or attestation               (exit 5)
    ├── VerificationDiffers      the sites do not hold the same images                       (exit 6)
    ├── RecordError              a record is missing, altered or cannot be written           (exit 1)
    └── ReadOnlySite             a check tried to change something: a mistake of ours        (exit 1)

Every message says what is wrong, where, and what to do next. Instances are picklable and carry the facts as attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class GeoregError(Exception):
    """Base of all errors that are shown as a message instead of a traceback.

    `remedy` says what the operator can do; `site` and `node` say where. `exit_code` is the process status it leads to.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "", site: str = "", node: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.site = site
        self.node = node

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))

    def __str__(self) -> str:
        where = " on ".join(part for part in (self.node, self.site) if part)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}\n  What to do: {self.remedy}" if self.remedy else text

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


def _rebuild(kind: type[GeoregError], args: tuple[object, ...], state: dict[str, object]) -> GeoregError:
    error = kind.__new__(kind)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


# parameters: nothing was contacted


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the parameters. `line` counts from 1; 0 means that no line is known."""

    message: str
    key: str = ""
    file: str = ""
    line: int = 0
    suggestion: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        key = f"{self.key}: " if self.key else ""
        hint = f" ({self.suggestion})" if self.suggestion else ""
        return f"{place}{key}{self.message}{hint}"


class ParametersError(GeoregError):
    """The parameters are wrong. `problems` lists everything that is, not only the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem], *, remedy: str = "") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"The parameters have {head}; nothing was contacted.\n{lines}", remedy=remedy)


class SecretUnavailable(ParametersError):
    """A secret reference leads nowhere: variable unset, file missing, command failed, no keyring entry."""


# prerequisites: the change was not made


class PrerequisiteError(GeoregError):
    """A check failed, so the change that it guards was not made. `changed` lists what earlier sections changed."""

    exit_code = 3

    def __init__(
        self, message: str, *, changed: Sequence[str] = (), remedy: str = "", site: str = "", node: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, site=site, node=node)
        self.changed = tuple(changed)


class SiteLocked(PrerequisiteError):
    """Another run holds the site's lock."""


class ApprovalFallen(PrerequisiteError):
    """The plan is no longer the one that was approved."""


class Unreachable(PrerequisiteError):
    """A host, database or API does not answer, or refuses us."""


class NodeUnreachable(Unreachable):
    """No SSH server answers at a node's address, or on the way there."""


class LoginRefused(Unreachable):
    """A node (or a jump host) does not let this account in."""


class SudoRefused(Unreachable):
    """The account may not become root on the node without a password."""


class HostKeyUnknown(Unreachable):
    """This machine does not know the node's host key yet, so nothing was sent."""


class HostKeyChanged(Unreachable):
    """The node shows another host key than the known one: reinstalled, or somebody else."""


class ConnectionLost(Unreachable):
    """The connection to a node broke; what was started there may go on."""


class NodeHangs(ConnectionLost):
    """The node took the connection and does not answer any more."""


class HttpRefused(Unreachable):
    """An HTTP answer that is no success. `status` is its code (0: no answer), `body` the start of its text."""

    def __init__(
        self, message: str, *, status: int = 0, body: str = "", remedy: str = "", site: str = "", node: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, site=site, node=node)
        self.status = status
        self.body = body


class DatabaseRefused(Unreachable):
    """PostgreSQL refuses the connection or the statement. `sqlstate` is its code where it gave one."""

    def __init__(self, message: str, *, sqlstate: str = "", remedy: str = "", site: str = "", node: str = "") -> None:
        super().__init__(message, remedy=remedy, site=site, node=node)
        self.sqlstate = sqlstate


# changes that did not work


class StepFailed(GeoregError):
    """A change did not work, or the site does not show it afterwards."""

    exit_code = 4


class CommandFailed(StepFailed):
    """A command on a node ended with a status other than 0. Output is kept, cut to its end."""

    def __init__(
        self, argv: Sequence[str], status: int, stdout: str = "", stderr: str = "", *, remedy: str = "", node: str = ""
    ) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        tail = "\n".join((stderr or stdout).strip().splitlines()[-8:])
        super().__init__(
            f"`{' '.join(argv)}` ended with status {status}" + (f":\n{tail}" if tail else ""), remedy=remedy, node=node
        )


class CommandTimeout(StepFailed):
    """A command on a node did not end within its time. `seconds` is the limit."""

    def __init__(self, argv: Sequence[str], seconds: float, *, remedy: str = "", node: str = "") -> None:
        self.argv = tuple(argv)
        self.seconds = seconds
        super().__init__(f"`{' '.join(argv)}` did not end within {seconds:g} s", remedy=remedy, node=node)


class JobOutOfReach(CommandTimeout):
    """The node of a job that was started cannot be reached any more, so the job is taken to go on by itself."""

    def __init__(self, argv: Sequence[str], why: GeoregError, *, remedy: str = "", node: str = "") -> None:
        super().__init__(argv, 0, remedy=remedy, node=node)
        self.message = f"`{' '.join(argv)}` cannot be followed any more: {why.message}"
        self.args = (self.message,)


class JobLost(StepFailed):
    """A detached job ended without leaving its exit status: the node was restarted or the job was killed."""


class NodeFileMissing(StepFailed):
    """A file that should be on a node is not there. `path` is its path on the node."""

    def __init__(self, path: str, *, remedy: str = "", node: str = "") -> None:
        self.path = path
        super().__init__(f"{path} does not exist", remedy=remedy, node=node)


# outcomes that are no failure of a step


class NeedsApproval(GeoregError):
    """Something still needs approval or attestation. `steps` are the full ids."""

    exit_code = 5

    def __init__(self, steps: Sequence[str], *, remedy: str = "") -> None:
        self.steps = tuple(steps)
        super().__init__("Not approved yet: " + ", ".join(steps), remedy=remedy)


class VerificationDiffers(GeoregError):
    """The sites do not hold the same images."""

    exit_code = 6


class RecordError(GeoregError):
    """A record is missing, altered, or cannot be written."""


class ReadOnlySite(GeoregError):
    """A check or a plan tried to change something. That is a mistake in georeg, and nothing was changed."""

"""One operator at a time: a lock on each site names who holds it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from georeg_nb.errors import NodeFileMissing, SiteLocked
from georeg_nb.records import hostname, operator, stamp

LOCK = "/var/lib/georeg/lock"


def read_holder(site: Any) -> dict[str, Any] | None:
    """Who holds the site, from its first rails node; None when nobody does."""
    try:
        text = site.rails_node.read_file(LOCK).decode(errors="replace")
    except NodeFileMissing:
        return None
    try:
        holder = json.loads(text)
    except ValueError:
        holder = None
    # A file that is no lock of ours still says that someone wants the site for himself.
    unknown = {"run": "unknown", "user": "unknown", "host": "", "pid": 0, "started": ""}
    return holder if isinstance(holder, dict) else unknown


def describe(holder: dict[str, Any]) -> str:
    text = f"run {holder.get('run')} of {holder.get('user')}, since {holder.get('started')}"
    return text + (" (its process is gone)" if is_dead(holder) else "")


def is_dead(holder: Mapping[str, Any]) -> bool:
    """True only when it is certain: the holder ran on this very machine, and that process is gone."""
    if holder.get("host") != hostname():
        return False
    process = holder.get("process") or {}
    pid = int(holder.get("pid") or 0)
    return pid > 0 and process != process_identity(pid)


def process_identity(pid: int) -> dict[str, str]:
    """What tells a process from a later one with the same number: boot and start time. Empty when there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return {}
    # A process that ended and that nobody has asked for its status yet is no holder any more.
    return {} if fields[0] in "ZX" else {"boot": boot, "started": fields[19]}


class SiteLocks:
    """The locks of one run. They are taken at the first change of a site and given back at the run's end."""

    def __init__(self, run: str, tell: Callable[..., Any], take_over: str = "") -> None:
        self.run = run
        self._tell = tell
        self.take_over = take_over
        self._held: dict[str, Any] = {}

    def take(self, site: Any) -> str:
        """Hold the site, or make sure that it is still held. Returns a sentence when a lock was taken over, else ''.

        Raises SiteLocked. A holder whose process is known to be dead is taken over, and so is the run that `take_over`
        names; both are written down.
        """
        holder = read_holder(site)
        if holder and self._is_ours(holder):
            self._held[site.name] = site
            return ""
        if site.name in self._held:
            self._held.pop(site.name)
            taken = f"taken over by {describe(holder)}" if holder else "removed by someone"
            raise SiteLocked(f"the lock of this run was {taken}", remedy="talk to them first", site=site.name)
        sentence = ""
        if holder:
            sentence = self._may_take_over(site, holder)
            site.rails_node.write_file(LOCK, self._content())
        elif not site.rails_node.create_file(LOCK, self._content()):
            raise self._locked(site, read_holder(site) or {})
        now_there = read_holder(site)
        if not now_there or not self._is_ours(now_there):  # two took it over at once, and the other one was later
            raise self._locked(site, now_there or {})
        self._held[site.name] = site
        self._tell("lock.taken", site=site.name, instead_of=holder, sentence=sentence)
        return sentence

    def release(self) -> None:
        """Give back what this run holds; what someone took over in the meantime stays theirs."""
        for name, site in list(self._held.items()):
            del self._held[name]
            holder = read_holder(site)
            if holder and self._is_ours(holder):
                site.rails_node.remove_file(LOCK)
                self._tell("lock.released", site=name)

    def _is_ours(self, holder: dict[str, Any]) -> bool:
        same_process = holder.get("pid") == os.getpid() and holder.get("host") == hostname()
        return holder.get("run") == self.run and same_process and not is_dead(holder)

    def _may_take_over(self, site: Any, holder: dict[str, Any]) -> str:
        if is_dead(holder):
            return f"the lock of {site.name} was held by {describe(holder)}; it was taken over"
        if self.take_over and self.take_over == holder.get("run"):
            return f"the lock of {site.name} was held by {describe(holder)}; it was taken over as asked"
        raise self._locked(site, holder)

    def _locked(self, site: Any, holder: dict[str, Any]) -> SiteLocked:
        run = holder.get("run")
        return SiteLocked(
            f"the site is held by {describe(holder)}",
            remedy=f'wait for it; or, when you are sure that nobody works there: `run.take_over("{run}")`, or '
            f"`georeg run … --take-over {run}`",
            site=site.name,
        )

    def _content(self) -> bytes:
        pid = os.getpid()
        holder = {
            "run": self.run,
            "user": operator(),
            "host": hostname(),
            "pid": pid,
            "process": process_identity(pid),
            "started": stamp(),
        }
        return (json.dumps(holder) + "\n").encode()

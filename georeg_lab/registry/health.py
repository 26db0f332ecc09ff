"""Health checks and the debug server's answer about them. Source: registry 2.4."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from georeg_lab.registry.config import Health
from georeg_lab.registry.import_log import Logger


@dataclass
class Check:
    """One check that runs every `interval` seconds; it fails after more than `threshold` failures in a row."""

    name: str
    probe: Callable[[], None]
    interval: float
    threshold: int = 0
    failures: int = 0
    problem: str = ""

    def run(self) -> None:
        """Probe once."""
        try:
            self.probe()
        except Exception as error:  # whatever the probe raises is its finding
            self.failures += 1
            self.problem = f"{error}"
        else:
            self.failures, self.problem = 0, ""

    @property
    def failing(self) -> bool:
        """Whether requests have to be refused."""
        return self.failures > self.threshold if self.threshold else bool(self.failures)


@dataclass
class HealthChecks:
    """All checks of the server."""

    log: Logger
    checks: list[Check] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def configure(self, settings: Health, storage: Callable[[], None], database: Callable[[], None] | None) -> None:
        """Register the configured checks; `database` is None in legacy mode."""
        if settings.storage_driver.enabled:
            check = settings.storage_driver
            self.checks.append(Check("storagedriver_filesystem", storage, check.interval, check.threshold))
        if settings.database.enabled and database is not None:
            check_db = settings.database
            self.checks.append(Check("database_connection", database, check_db.interval, check_db.threshold))

    def start(self) -> None:
        """Run the checks from now on, in the running event loop."""
        self._tasks = [asyncio.create_task(self._repeat(check)) for check in self.checks]

    @staticmethod
    async def _repeat(check: Check) -> None:
        while True:
            await asyncio.to_thread(check.run)
            await asyncio.sleep(check.interval)

    @property
    def failing(self) -> dict[str, str]:
        """Problems of the failing checks, by name."""
        return {check.name: check.problem for check in self.checks if check.failing}

    def close(self) -> None:
        """Stop the checks."""
        self.log.info("closing healthchecks registry")
        for task in self._tasks:
            task.cancel()
        self.log.info("healthchecks registry has been shut down")

"""The two rehearsal sites: made, seeded, started, stopped, brought back to their beginning."""

from georeg_lab.sites.lifecycle import LabSites, Service
from georeg_lab.sites.settings import LabError

__all__ = ["LabError", "LabSites", "Service"]

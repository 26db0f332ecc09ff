"""The two rehearsal sites: made, seeded, started, stopped, brought back to their beginning."""

from georeg_lab.sites.lifecycle import LabError, LabSites, Service

__all__ = ["LabError", "LabSites", "Service"]

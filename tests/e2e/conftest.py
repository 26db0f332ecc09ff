"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from workplace import Workplace, copy_project

from georeg_lab.sites import LabSites


@pytest.fixture
def workplace(lab: LabSites, tmp_path: Path) -> Workplace:
    """A workplace on the lab as it is."""
    return Workplace(copy_project(tmp_path, lab), lab)


@pytest.fixture
def fresh_workplace(fresh_lab: LabSites, tmp_path: Path) -> Workplace:
    """A workplace on the lab as it was after its first start."""
    return Workplace(copy_project(tmp_path, fresh_lab), fresh_lab)

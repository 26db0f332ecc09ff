"""The project's own promises: one set of packages, a lock without addresses, no machine's paths, a public surface."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent

# conda-forge calls these differently
CONDA_NAMES = {"playwright": "playwright-python"}


def declared_in_pyproject() -> dict[str, SpecifierSet]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    requirements = [Requirement(text) for text in texts]
    return {CONDA_NAMES.get(r.name.lower(), r.name.lower()): r.specifier for r in requirements}


def declared_in_environment() -> dict[str, SpecifierSet]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    texts = [entry for entry in entries if isinstance(entry, str) and entry != "pip"]
    texts += [
        text for entry in entries if isinstance(entry, dict) for text in entry["pip"] if not text.startswith("-e")
    ]
    found = {r.name.lower(): r.specifier for r in map(Requirement, texts)}
    python = found.pop("python")
    assert python == SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    return found


def test_environment_and_pyproject_agree() -> None:
    assert declared_in_environment() == declared_in_pyproject()


def test_environment_uses_conda_forge_alone() -> None:
    assert yaml.safe_load((ROOT / "environment.yml").read_text())["channels"] == ["conda-forge", "nodefaults"]


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    lines = [line for line in block.splitlines() if line.strip().startswith('"')]
    assert lines
    assert [line for line in lines if not re.search(r'",\s+# \S+', line)] == []


def test_lock_pins_everything_with_hashes_and_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==", lock, flags=re.M)
    assert len(pinned) > 50
    assert "://" not in lock
    for block in re.split(r"\n(?=[A-Za-z])", lock.strip()):
        if block.startswith("#"):
            continue
        assert "--hash=sha256:" in block, block.splitlines()[0]
    locked = {name.lower() for name in pinned}
    missing = {name for name in declared_in_pyproject() if name not in locked | set(CONDA_NAMES.values())}
    assert missing == set()


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: nothing is tracked")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_tracked_file_names_a_machine_or_a_package_host() -> None:
    hosts = ["files.python" + "hosted.org", "py" + "pi.org", "deb.deb" + "ian.org", "registry.npm" + "js.org"]
    machine = re.compile(
        "|".join([r"/ro" + r"ot/[.a-z]", r"/wo" + r"rk/(main|shared)", r"/home/[a-z]+/", *map(re.escape, hosts)])
    )
    guilty = []
    for path in tracked_files():
        found = machine.search(path.read_text(errors="replace"))
        if found:
            guilty.append(f"{path.relative_to(ROOT)}: {found.group()}")
    assert guilty == []


def test_modules_stay_short() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for package in ("georeg_nb", "georeg_lab")
        for path in (ROOT / package).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_the_public_surface_is_one_sorted_list() -> None:
    import georeg_nb

    assert georeg_nb.__all__ == sorted(georeg_nb.__all__)
    assert all(hasattr(georeg_nb, name) for name in georeg_nb.__all__)


def test_test_files_have_names_of_their_own() -> None:
    """Test folders are no packages: of two files with one name pytest collects the first only."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))

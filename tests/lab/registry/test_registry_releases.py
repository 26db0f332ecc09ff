"""The stand-in as another release: what its command line, its schema and its lock files are then.

Texts of 4.10.0, 4.24.0 and 4.28.0 are those of the real programs, built from their source and run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from georeg_lab.releases import RELEASES

FACTS = """
import json
from georeg_lab.registry import release, schema, server_setup
print(json.dumps({
    "migrations": [len(schema.ids(kind)) for kind in schema.KINDS],
    "last": schema.ids(schema.KINDS[0])[-1],
    "enforced": server_setup.is_enforced(),
    "import locks": release.IMPORT_LOCKS,
    "statistics": release.IMPORT_STATISTICS,
}))
"""
# release -> number of migrations before and after deployment, the last one, and what it does with lock files
EXPECTED: dict[str, tuple[list[int], str, bool, bool, bool]] = {
    "v4.10.0-gitlab": ([165], "20240828064749", False, False, False),
    "v4.24.0-gitlab": ([177, 5], "20250623090017", False, False, False),
    "v4.28.0-gitlab": ([178, 5], "20250819132100", False, False, True),
    "v4.32.0-gitlab": ([184, 10], "20251021070732", False, True, True),
    "v4.40.1-gitlab": ([184, 10], "20251021070732", True, True, True),
}
# options of `database import` by release; the others are in all of them
OPTIONS = {
    "v4.10.0-gitlab": set(),
    "v4.24.0-gitlab": set(),
    "v4.28.0-gitlab": {"import-statistics", "pre-import-skip-recent"},
    "v4.32.0-gitlab": {"import-statistics", "pre-import-skip-recent", "log-directory"},
    "v4.40.1-gitlab": {"import-statistics", "pre-import-skip-recent", "log-directory"},
}
IN_ALL = {"all-repositories", "common-blobs", "debug-server", "dry-run", "dynamic-media-types", "help"} | {
    *("log-to-stdout", "pre-import", "row-count", "step-one", "step-two", "step-three", "tag-concurrency")
}


def run(version: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GEOREG_REGISTRY_VERSION": version, **variables}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)


def registry(version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(version, "-m", "georeg_lab.registry", *arguments)


def facts(version: str, **variables: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(version, "-c", FACTS, **variables).stdout)
    return found


def test_every_release_of_the_lab_is_here() -> None:
    assert [entry.registry for entry in RELEASES.values()] == list(EXPECTED) == list(OPTIONS)


@pytest.mark.parametrize("version", EXPECTED)
def test_schema_and_lockfiles(version: str) -> None:
    migrations, last, enforced, locks, statistics = EXPECTED[version]
    found = facts(version)
    assert found["migrations"] == migrations and found["last"].startswith(last)
    assert (found["enforced"], found["import locks"], found["statistics"]) == (enforced, locks, statistics)


@pytest.mark.parametrize("version", EXPECTED)
def test_the_variable_that_enforces_lockfiles_is_gone_in_the_newest(version: str) -> None:
    newest = version == "v4.40.1-gitlab"
    assert facts(version, REGISTRY_FF_ENFORCE_LOCKFILES="true")["enforced"]
    assert facts(version, REGISTRY_FF_ENFORCE_LOCKFILES="false")["enforced"] is newest


@pytest.mark.parametrize("version", EXPECTED)
def test_version_and_options(version: str) -> None:
    assert registry(version, "--version").stdout == f"registry github.com/docker/distribution {version}\n"
    options = set(re.findall(r"--([a-z-]+)", registry(version, "database", "import", "--help").stdout))
    assert options == IN_ALL | OPTIONS[version]


def test_an_option_of_a_later_release_is_unknown() -> None:
    found = registry("v4.10.0-gitlab", "database", "import", "--log-directory", "/tmp", "config.yml")
    assert found.returncode == 1 and "unknown flag: --log-directory" in found.stderr


@pytest.mark.parametrize("value", ["prefer", "false"])
@pytest.mark.parametrize("version", ["v4.10.0-gitlab", "v4.24.0-gitlab", "v4.28.0-gitlab", "v4.32.0-gitlab"])
def test_a_string_is_no_boolean_before_prefer_was_there(version: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    storage = {"filesystem": {"rootdirectory": str(tmp_path)}}
    text = f"version: 0.1\nstorage: {json.dumps(storage)}\n" + f'database: {{"enabled": "{value}"}}\n'
    assert yaml.safe_load(text)["database"]["enabled"] == value
    file.write_text(text)
    found = registry(version, "database", "migrate", "version", str(file))
    refused = (
        f"configuration error: parsing {file}: yaml: unmarshal errors:\n"
        f"  line 3: cannot unmarshal !!str `{value}` into bool"
    )
    assert found.stderr.startswith(refused) is (version != "v4.32.0-gitlab")

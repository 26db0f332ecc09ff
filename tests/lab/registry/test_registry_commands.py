"""The command line beyond the recordings: offline collection for good, reading the configuration."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import recorded_images as images
import registry_program

from georeg_lab.registry import config, durations
from georeg_lab.registry.config_decode import DecodeError


def test_collection_removes_only_what_nothing_names(tmp_path: Path) -> None:
    root, path = tmp_path / "storage", str(tmp_path / "config.yml")
    images.base_main(root)
    Path(path).write_text(json.dumps({"version": "0.1", "storage": {"filesystem": {"rootdirectory": str(root)}}}))
    before = {file for file in root.rglob("*") if file.is_file()}
    assert registry_program.run(["garbage-collect", path]).status == 0
    assert {file for file in root.rglob("*") if file.is_file()} == before
    assert registry_program.run(["garbage-collect", "-m", path]).status == 0
    gone = {file.relative_to(root) for file in before if not file.exists()}
    untagged = images.image("untagged", "oci", (200,))
    names = [digest.split(":")[1] for digest in (untagged.digest, *map(images.digest, untagged.blobs))]
    assert {file.parent.name for file in gone} == set(names)
    assert len(gone) == len(names) + 1  # the files, and the manifest's revision link


# --- reading the configuration


FILE = """
version: 0.1
storage:
  filesystem: {rootdirectory: /srv/registry}
  delete: {enabled: true}
database: {enabled: true, host: db, port: 5432, password: p, pool: {maxopen: 7}}
http: {addr: ':5000', draintimeout: 1m30s, headers: {X-A: [b, c]}}
notifications:
  endpoints: [{name: n, url: http://x, timeout: 500ms, maxretries: 5, headers: {Authorization: [t]}}]
gc: {disabled: true, reviewafter: -1}
unknown: {key: 1}
"""


def test_reads_a_configuration() -> None:
    found = config.parse(FILE)
    assert (str(found.storage.root), found.storage.driver, found.storage.delete_enabled) == (
        "/srv/registry",
        "filesystem",
        True,
    )
    assert (found.database.mode, found.database.port, found.database.pool.max_open) == ("true", 5432, 7)
    assert (found.http.drain_timeout, found.http.header_lists) == (90.0, {"X-A": ["b", "c"]})
    endpoint = found.notifications.endpoints[0]
    assert (endpoint.timeout, endpoint.max_retries, endpoint.header_lists) == (0.5, 5, {"Authorization": ["t"]})
    assert found.gc.disabled
    assert found.gc.review_after < 0
    assert found.log.level == "info"
    assert "p" not in repr(found.database).split("password")[0][-3:]
    assert "password" not in repr(found)


def test_environment_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {
        "REGISTRY_DATABASE_ENABLED": "prefer",
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/elsewhere",
        "REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED": "true",
        "REGISTRY_HTTP_DRAINTIMEOUT": "5s",
        "REGISTRY_FF_ENFORCE_LOCKFILES": "true",
        "REGISTRY_NONSENSE": "1",
    }
    found = config.parse(FILE, environment=environment)
    assert (found.database.mode, str(found.storage.root), found.http.drain_timeout) == ("prefer", "/elsewhere", 5.0)
    assert found.storage.maintenance == {"readonly": {"enabled": True}}
    err = capsys.readouterr().err
    assert 'msg="ignoring unrecognized environment variable"' in err
    assert "name=REGISTRY_NONSENSE" in err
    assert "FF_ENFORCE" not in err
    with pytest.raises(config.ConfigError, match="into int"):
        config.parse(FILE, environment={"REGISTRY_DATABASE_PORT": "many"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http: {draintimeout: soon}", "  line 3: cannot unmarshal !!str `soon` into time.Duration"),
        ("database: {port: x}", "  line 3: cannot unmarshal !!str `x` into int"),
        ("gc: {disabled: perhaps not}", "  line 3: cannot unmarshal !!str `perhaps...` into bool"),
        ("http: [1]", "  line 3: cannot unmarshal !!seq into configuration.HTTP"),
    ],
)
def test_values_that_do_not_fit(text: str, message: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.parse(f"version: 0.1\nstorage: {{filesystem: {{}}}}\n{text}\n")
    assert str(caught.value) == f"yaml: unmarshal errors:\n{message}"
    assert not isinstance(caught.value, DecodeError)


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("72h", 259200, "72h0m0s"),
        ("1m30s", 90, "1m30s"),
        ("500ms", 0.5, "500ms"),
        ("0", 0, "0s"),
        ("-1.5s", -1.5, "-1.5s"),
    ],
)
def test_durations(text: str, seconds: float, shown: str) -> None:
    assert durations.parse(text) == pytest.approx(seconds)
    assert durations.text(seconds) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("5", 'time: missing unit in duration "5"'),
        ("x", 'time: invalid duration "x"'),
    ],
)
def test_bad_durations(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        durations.parse(text)


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "georeg_lab.registry"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "registry github.com/docker/distribution v4.32.0-gitlab\n"
    done = subprocess.run([*command, "frob"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, 'unknown command "frob" for "registry"\n')

"""Secrets: every kind of reference resolves, none shows its value, and each failure says what to do."""

from __future__ import annotations

import json
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from georeg_nb import credentials, redaction
from georeg_nb.credentials import Secret, is_reference, label, resolve, unavailable
from georeg_nb.errors import SecretUnavailable

VALUE = "correct-horse-battery"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    credentials._asked.clear()
    redaction.forget_all()


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret(VALUE, "env:XP")
    assert secret.reveal() == VALUE
    for shown in (
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!s:>40}",
        repr({"password": secret}),
        repr([secret]),
    ):
        assert VALUE not in shown and "env:XP" in shown
    for write in (pickle.dumps, json.dumps):
        with pytest.raises(TypeError):
            write(secret)
    assert secret == Secret(VALUE, "another") and secret != VALUE and secret != Secret("other-value", "x")
    assert len({secret, Secret(VALUE, "another")}) == 1


def test_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XP_PASSWORD", VALUE)
    assert resolve("env:XP_PASSWORD", tmp_path).reveal() == VALUE
    assert redaction.redact(f"psql: {VALUE}") == "psql: [secret: env:XP_PASSWORD]"


def test_file_from_the_working_directory_else_from_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base/s").mkdir(parents=True)
    (tmp_path / "here/s").mkdir(parents=True)
    put(tmp_path / "base/s/token", VALUE + "\n")
    monkeypatch.chdir(tmp_path / "here")
    assert resolve("file:s/token", tmp_path / "base").reveal() == VALUE
    put(tmp_path / "here/s/token", "another-value\r\n")
    assert resolve("file:s/token", tmp_path / "base").reveal() == "another-value"
    assert resolve(f"file:{tmp_path}/base/s/token", tmp_path).reveal() == VALUE


def test_a_command_is_asked_once(tmp_path: Path) -> None:
    script = tmp_path / "ask"
    script.write_text(f"#!/bin/sh\necho x >> {tmp_path}/asked\necho '{VALUE}'\n")
    script.chmod(0o700)
    reference = f"command:{script} 'primary token'"
    assert resolve(reference, tmp_path).reveal() == VALUE == resolve(reference, tmp_path).reveal()
    assert (tmp_path / "asked").read_text() == "x\n"
    assert label(reference) == f"command:{script}"


def test_a_command_below_the_base(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ask").write_text(f"#!/bin/sh\necho '{VALUE}'\n")
    (tmp_path / "bin/ask").chmod(0o700)
    assert resolve("command:bin/ask", tmp_path).reveal() == VALUE


def test_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring, errors = types.ModuleType("keyring"), types.ModuleType("keyring.errors")
    entries = {("gitlab/primary", "admin"): VALUE}
    errors.KeyringError = type("KeyringError", (Exception,), {})  # type: ignore[attr-defined]
    keyring.errors, keyring.get_password = errors, lambda *entry: entries.get(entry)  # type: ignore[attr-defined]
    keyring.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    assert resolve("keyring:gitlab/primary/admin", tmp_path).reveal() == VALUE
    with pytest.raises(SecretUnavailable, match="keyring set gitlab nobody"):
        resolve("keyring:gitlab/nobody", tmp_path)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("env:NOT_SET", "the environment variable NOT_SET is not set"),
        ("env:EMPTY", "the environment variable EMPTY is not set"),
        ("file:nowhere/token", "there is no file nowhere/token"),
        ("file:open", "can be read by everybody on this machine: chmod 600"),
        ("file:empty", "is empty"),
        ("file:two", "holds more than one line"),
        ("command:no-such-program x", "there is no program no-such-program"),
        ("command:false", "ended with status 1"),
        ("command:true", "is empty"),
        ("correct-horse", "is no reference; write a reference: env:NAME, file:PATH, command:PROGRAM"),
    ],
)
def test_what_leads_nowhere(reference: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY", "")
    put(tmp_path / "empty", "\n")
    put(tmp_path / "two", f"{VALUE}\nsecond\n")
    put(tmp_path / "open", VALUE)
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(SecretUnavailable, match=message.replace("(", r"\(")) as caught:
        resolve(reference, tmp_path)
    assert VALUE not in str(caught.value) and caught.value.exit_code == 2


def test_looking_does_not_run_the_command(tmp_path: Path) -> None:
    script = tmp_path / "ask"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    script.chmod(0o700)
    assert unavailable(f"command:{script}", tmp_path) == ""
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["env:A", "file:a b/c", "command:pass show 'x y'", "keyring:gitlab/root"])
def test_references(text: str) -> None:
    assert is_reference(text)


@pytest.mark.parametrize(
    "text",
    ["", "env:", "env:not a name", "glpat-x", "ENV:A", "file: x", "command:'", "keyring:x", "keyring:/x", "https://x"],
)
def test_no_references(text: str) -> None:
    assert not is_reference(text)


def put(path: Path, text: str) -> None:
    path.write_bytes(text.encode())
    path.chmod(0o600)

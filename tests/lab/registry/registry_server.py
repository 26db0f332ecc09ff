"""Registry processes for tests: a configuration, a port, the log, the exit; and raw HTTP to them."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import registry_program
import yaml

from georeg_lab.postgres import free_port
from georeg_lab.registry.config import Database

START_SECONDS = 60


def database_section(database: Database, **more: Any) -> dict[str, Any]:
    """The `database` section of config.yml."""
    keys = ("enabled", "host", "port", "user", "password", "dbname")
    section = {key: getattr(database, key) for key in keys}
    return {**section, "enabled": True, **more}


def configuration(root: Path, port: int, database: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A config.yml; `more` replaces top-level sections, `storage` is merged."""
    storage = {"filesystem": {"rootdirectory": str(root)}, "delete": {"enabled": True}, **more.pop("storage", {})}
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": storage,
        "http": {"addr": f"127.0.0.1:{port}", "secret": "not so secret", **more.pop("http", {})},
        "gc": {"disabled": True},
        **more,
    }
    return {**config, "database": database} if database else config


@dataclass
class Response:
    """A raw answer. Header values of the same name are joined by ", "."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """One registry process. `options` go to `configuration`, `environment` is added to the process's."""

    folder: Path
    root: Path
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def launch(self) -> None:
        """Start the process without waiting."""
        config = self.folder / "config.yml"
        config.write_text(yaml.safe_dump(configuration(self.root, self.port, **self.options)))
        with (self.folder / "stdout").open("wb") as out, (self.folder / "stderr").open("wb") as err:
            self.process = subprocess.Popen(
                [*registry_program.COMMAND, "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=registry_program.environment(self.environment),
            )

    def wait(self) -> bool:
        """Wait until it listens. False if it ended instead."""
        assert self.process is not None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                return False
            if b'"listening on ' in (self.folder / "stdout").read_bytes():
                return True
            time.sleep(0.05)
        raise AssertionError(f"registry neither listens nor ends: {self.stderr}")

    def start(self) -> None:
        self.launch()
        assert self.wait(), self.stderr

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines on stdout."""
        return [json.loads(line) for line in (self.folder / "stdout").read_text().splitlines()]

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None, port: int = 0
    ) -> Response:
        """One request on a connection of its own, with no header that was not asked for."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None or method in ("PUT", "POST", "PATCH"):
                connection.putheader("Content-Length", str(len(body or b"")))
            connection.endheaders(body)
            answer = connection.getresponse()
            found: dict[str, str] = {}
            for name, value in answer.getheaders():
                found[name] = f"{found[name]}, {value}" if name in found else value
            return Response(answer.status, found, answer.read())
        finally:
            connection.close()

    def send_blob(self, repository: str, data: bytes, digest: str, headers: dict[str, str] | None = None) -> Response:
        """Push a blob in two requests; the last answer."""
        begun = self.request("POST", f"/v2/{repository}/blobs/uploads/", headers)
        if begun.status != 202:
            return begun
        path = begun.headers["Location"].removeprefix(self.url)
        types = {"Content-Type": "application/octet-stream", **(headers or {})}
        return self.request("PUT", f"{path}&digest={digest}", types, data)

    def push_blob(self, repository: str, data: bytes, digest: str, headers: dict[str, str] | None = None) -> None:
        """Push a blob that is accepted."""
        done = self.send_blob(repository, data, digest, headers)
        assert done.status == 201, done

    def send_manifest(
        self, repository: str, reference: str, data: bytes, media_type: str, headers: dict[str, str] | None = None
    ) -> Response:
        """Push a manifest; the answer."""
        types = {"Content-Type": media_type, **(headers or {})}
        return self.request("PUT", f"/v2/{repository}/manifests/{reference}", types, data)

    def push_manifest(
        self, repository: str, reference: str, data: bytes, media_type: str, headers: dict[str, str] | None = None
    ) -> None:
        """Push a manifest that is accepted."""
        done = self.send_manifest(repository, reference, data, media_type, headers)
        assert done.status == 201, done

    def push_image(self, repository: str, reference: str, image: Any) -> None:
        """Push an image of `recorded_images` with its blobs."""
        import recorded_images

        for data in image.blobs:
            self.push_blob(repository, data, recorded_images.digest(data))
        self.push_manifest(repository, reference, image.payload, image.media_type)

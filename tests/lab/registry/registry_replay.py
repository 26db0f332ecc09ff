"""Replays recorded HTTP sessions against a registry process and writes answers as the recordings do."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

import contract_cases
import recorded_images as images
from registry_server import Response, Server

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")
PUSH_NAMES = {
    "http-alpha": ("docker", (1000, 500), "amd64"),
    "http-oci": ("oci", (300,), "amd64"),
    "http-oci2": ("oci", (301,), "arm64"),
    "http-d2": ("docker", (302,), "arm64"),
    "http-uc": ("oci", (120,), "amd64"),
    "ro": ("docker", (100,), "amd64"),
    "auth": ("docker", (100,), "amd64"),
    "note": ("docker", (100,), "amd64"),
    "note2": ("docker", (101,), "arm64"),
    "gone": ("docker", (100,), "amd64"),
    "ex-img": ("oci", (60,), "amd64"),
    "ex-helm": ("oci", (61,), "amd64"),
    "ex-ul": ("oci", (62,), "amd64"),
}
BAD_STATE = "YmFkIHN0YXRlLCBiYWQgc3RhdGUsIGJhZCBzdGF0ZSwgYmFkIHN0YXRlLCBiYWQgc3RhdGU="  # base64, not signed
HUGE = b"{" + b" " * 4_194_304 + b"}"
# In this file the recording client kept the state that line 27 answered, since line 31 was expected to fail.
STALE = {name: dict.fromkeys(range(32, 42), -2) for name in ("http-legacy", "http-database")}


def lines(name: str) -> list[dict[str, Any]]:
    return contract_cases.recorded(f"registry/{name}.jsonl")


def image(name: str) -> images.Image:
    kind, sizes, architecture = PUSH_NAMES[name]
    return images.image(name, kind, sizes, architecture)


def _big_config() -> bytes:
    """The config of line 333, padded beyond the size that the database keeps."""
    head, tail = b'{"architecture":"amd64","os":"linux","pad":"', b'"}'
    return head + b"x" * (256_146 - len(head) - len(tail)) + tail


def _known_bodies() -> dict[str, bytes]:
    blobs = [data for name in PUSH_NAMES for data in image(name).blobs]
    blobs += [images.blob("ex-bk0", 40), images.blob("ex-bk1", 41), HUGE]
    blobs.append(_big_config())
    blobs += [blobs[1][:200], blobs[1][200:], blobs[2][:200], blobs[2][200:]]
    return {hashlib.sha256(data).hexdigest(): data for data in blobs}


@dataclass
class Replay:
    """One recorded session: keeps what its placeholders stand for."""

    server: Server
    file: str = ""
    uploads: dict[str, str] = field(default_factory=dict)
    states: dict[str, list[str]] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=_known_bodies)
    token: str = ""

    def answer(self, line: dict[str, Any]) -> dict[str, Any]:
        """Send one line's request or push; the answer in the recording's form."""
        if "push_blob" in line:
            pushed = line["push_blob"]
            content = pushed.get("content")
            data = content.encode() if content else self.bodies[pushed["digest"].split(":")[1]]
            return {"status": self.server.send_blob(pushed["repository"], data, pushed["digest"]).status}
        if "push_manifest" in line:
            pushed = line["push_manifest"]
            if "body" in pushed:
                self.manifests[pushed["digest"]] = pushed["body"].encode()
            data, kind = self.manifests[pushed["digest"]], pushed["content_type"]
            return {"status": self.server.send_manifest(pushed["repository"], pushed["reference"], data, kind).status}
        request = line["request"]
        body = self._body(request)
        if request["method"] == "PUT" and body and "/manifests/" in request["path"]:
            self.manifests["sha256:" + hashlib.sha256(body).hexdigest()] = body
        path = self._path(line)
        headers = {name: value.replace("{token}", self.token) for name, value in request["headers"].items()}
        return self.normalized(line, self.server.request(request["method"], path, headers, body))

    def _body(self, request: dict[str, Any]) -> bytes | None:
        if request.get("body") is not None:
            return str(request["body"]).encode()
        if request.get("body_sha256"):
            return self.bodies[request["body_sha256"]]
        return None

    def begin_upload(self, placeholder: str, repository: str) -> None:
        """Start an upload that the recording does not show."""
        begun = self.server.request("POST", f"/v2/{repository}/blobs/uploads/")
        self._learn(placeholder, begun)

    def _learn(self, placeholder: str, response: Response) -> None:
        if "Docker-Upload-Uuid" in response.headers:
            self.uploads[placeholder] = response.headers["Docker-Upload-Uuid"]
        found = re.search(r"_state=([^&]+)", response.headers.get("Location", ""))
        if found:
            self.states.setdefault(placeholder, []).append(found[1])

    def _path(self, line: dict[str, Any]) -> str:
        path: str = line["request"]["path"]
        for placeholder in re.findall(r"\{uuid\d+\}", path):
            if placeholder not in self.uploads:
                if "{state}" in path:
                    self.begin_upload(placeholder, re.findall(r"/v2/(.+)/blobs/", path)[0])
                else:
                    self.uploads[placeholder] = "00000000-0000-4000-8000-000000000000"
            path = path.replace(placeholder, self.uploads[placeholder])
            if "{state}" in path:
                path = path.replace("{state}", self._state(line, placeholder))
        return path

    def _state(self, line: dict[str, Any], placeholder: str) -> str:
        name, known = line["name"], self.states[placeholder]
        if "bad state" in name:
            return BAD_STATE
        if "old state" in name:
            return known[0]
        return known[STALE.get(self.file, {}).get(line["line"], -1)]

    # --- what is compared

    def normalized(self, line: dict[str, Any], response: Response) -> dict[str, Any]:
        """Status, headers and body with placeholders."""
        for placeholder in set(re.findall(r"\{uuid\d+\}", json.dumps(line["response"]))):
            if placeholder not in self.uploads or "_state=" in response.headers.get("Location", ""):
                self._learn(placeholder, response)
        body = response.body
        headers = {name: self._placeholders(value) for name, value in response.headers.items()}
        return {"status": response.status, **comparable(headers, body)}

    def _placeholders(self, text: str) -> str:
        text = text.replace(self.server.address, "{host}")
        text = re.sub(r"_state=[^&>]+", "_state={state}", text)
        for placeholder, value in self.uploads.items():
            text = text.replace(value, placeholder)
        return text


def expected(line: dict[str, Any]) -> dict[str, Any]:
    """What the recording says, in the form of `Replay.normalized`."""
    if "response" not in line:
        return {"status": 201}  # a push whose answer was not kept: all were 201
    recorded = line["response"]
    result: dict[str, Any] = {"status": recorded["status"]}
    if recorded.get("body") is None and recorded.get("body_sha256"):
        result["headers"] = _headers(recorded["headers"], timed=False)
        result["body"] = f"{recorded['body_length']} bytes, {recorded['body_sha256']}"
        return result
    return {**result, **comparable(recorded["headers"], (recorded.get("body") or "").encode())}


def comparable(headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """Headers and body without what differs from run to run."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = f"{len(body)} bytes, {hashlib.sha256(body).hexdigest()}"
    text = re.sub(r"127\.0\.0\.1:\d+", "{addr}", TIME.sub("{time}", text))
    text = re.sub(r"(?<=user=postgres database=)\w+", "{name}", text)
    return {"headers": _headers(headers, timed="{time}" in text or "{addr}" in text), "body": text}


def _headers(headers: dict[str, str], timed: bool) -> dict[str, str]:
    kept = {name: value for name, value in headers.items() if name not in ("Date", "Transfer-Encoding")}
    if timed or "Transfer-Encoding" in headers:
        kept.pop("Content-Length", None)
    if "Www-Authenticate" in kept:
        kept["Www-Authenticate"] = _challenge(kept["Www-Authenticate"])
    if "Link" in kept:
        kept["Link"] = re.sub(r"(?<=[?&]last=)[A-Za-z0-9+/%=]{40,}", _marker, kept["Link"])
    return kept


def _challenge(text: str) -> str:
    """The order of scopes and of their actions is chance."""

    def ordered(match: re.Match[str]) -> str:
        scopes = []
        for scope in match[1].split(" "):
            head, _, actions = scope.rpartition(":")
            scopes.append(f"{head}:{','.join(sorted(actions.split(',')))}")
        return f'scope="{" ".join(sorted(scopes))}"'

    return re.sub(r'scope="([^"]*)"', ordered, text)


def _marker(match: re.Match[str]) -> str:
    """A time and a tag in base64: only the tag is compared."""
    try:
        return "{time}|" + base64.b64decode(match[0].replace("%3D", "=")).decode().partition("|")[2]
    except ValueError:
        return match[0]

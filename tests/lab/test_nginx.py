"""georeg_lab.nginx: TLS outside, the forwarded headers inside, answers unchanged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import requests
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from georeg_lab import nginx
from georeg_lab.pki import Authority
from georeg_lab.postgres import free_port

Result = TypeVar("Result")


class Echo(RequestHandler):
    """Answers with what arrived."""

    def get(self) -> None:
        seen = {name: value for name, value in self.request.headers.get_all() if name.startswith(("X-", "Host"))}
        self.set_status(202, "Accepted")
        self.add_header("Link", "<a>; rel=next")
        self.add_header("X-Twice", "1")
        self.add_header("X-Twice", "2")
        self.write({"headers": seen, "uri": self.request.uri})

    def head(self) -> None:
        self.set_header("Content-Length", "12345")
        self.set_header("Docker-Content-Digest", "sha256:abc")

    def patch(self) -> None:
        self.write(self.request.body)

    def delete(self) -> None:
        self.set_status(204)


class Restarting(RequestHandler):
    """Answers with the port that the connection came from, and drops the second request unanswered."""

    requests = 0

    def get(self) -> None:
        Restarting.requests += 1
        if Restarting.requests == 2:
            self.detach().close()
        else:
            self.write(str(self.request.connection.context.address[1]))  # type: ignore[union-attr]

    post = get


def through_proxy(tmp_path: Path, use: Callable[[requests.Session, str], Result], *, up: bool = True) -> Result:
    """Run `use(session, base url)` against the proxy, with or without its upstream."""
    authority = Authority(tmp_path / "pki")
    listen, upstream = free_port(), free_port()

    async def run() -> Result:
        backend = HTTPServer(Application([(r"/restart", Restarting), (r".*", Echo)]))
        if up:
            backend.listen(upstream, "127.0.0.1")
        proxies = await nginx.serve([nginx.Host(listen, upstream, nginx.GITLAB_502, *authority.issue("site"))])
        with requests.Session() as session:
            session.trust_env, session.verify = False, str(authority.certificate_file)
            try:
                return await asyncio.to_thread(use, session, f"https://127.0.0.1:{listen}")
            finally:
                for proxy in proxies:
                    await proxy.close()
                backend.stop()
                await backend.close_all_connections()

    return asyncio.run(run())


def test_headers_both_ways(tmp_path: Path) -> None:
    answer = through_proxy(tmp_path, lambda session, url: session.get(f"{url}/v2/a%2Fb/?n=1&last=x%2Fy"))
    assert answer.status_code == 202
    assert (answer.headers["Server"], answer.headers["X-Twice"]) == ("nginx", "1, 2")
    assert answer.json()["uri"] == "/v2/a%2Fb/?n=1&last=x%2Fy"
    host = str(answer.request.url).split("/")[2]
    seen = answer.json()["headers"]
    assert (seen["Host"], seen["X-Forwarded-Host"], seen["X-Forwarded-Proto"]) == (host, host, "https")


def test_head_keeps_the_length_and_sends_no_body(tmp_path: Path) -> None:
    answer = through_proxy(tmp_path, lambda session, url: session.head(f"{url}/x"))
    assert (answer.headers["Content-Length"], answer.headers["Docker-Content-Digest"]) == ("12345", "sha256:abc")


def test_bodies_go_through_whole_also_in_chunks(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000

    def send(session: requests.Session, url: str) -> tuple[bytes, bytes]:
        chunks = (data[at : at + 65536] for at in range(0, len(data), 65536))
        return session.patch(f"{url}/x", data=data).content, session.patch(f"{url}/x", data=chunks).content

    assert through_proxy(tmp_path, send) == (data, data)


def test_an_empty_answer_stays_empty(tmp_path: Path) -> None:
    answer = through_proxy(tmp_path, lambda session, url: session.delete(f"{url}/x"))
    assert (answer.status_code, answer.content) == (204, b"")


def test_without_upstream_it_says_that_gitlab_does_not_respond(tmp_path: Path) -> None:
    answer = through_proxy(tmp_path, lambda session, url: session.get(f"{url}/"), up=False)
    assert answer.status_code == 502
    assert "GitLab is not responding (502)" in answer.text


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 502)])
def test_a_dropped_connection_is_asked_again_only_for_what_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, status: int
) -> None:
    monkeypatch.setattr(Restarting, "requests", 0)

    def ask(session: requests.Session, url: str) -> list[requests.Response]:
        return [session.request(method, f"{url}/restart") for _ in range(4)]

    first, second, third, fourth = through_proxy(tmp_path, ask)
    assert [answer.status_code for answer in (first, second, third, fourth)] == [200, status, 200, 200]
    assert first.text != third.text == fourth.text  # connections stay open between requests


def test_hosts_are_what_reconfigure_left(tmp_path: Path) -> None:
    files = {"ssl_certificate": "/etc/gitlab/ssl/a.crt", "ssl_certificate_key": "/etc/gitlab/ssl/a.key"}
    facts = {
        "external_url": "https://127.0.0.1:18701",
        "registry_external_url": "https://127.0.0.1:18702",
        "puma_port": 18704,
        "registry_http_addr": "127.0.0.1:18703",
        "nginx": files,
        "registry_nginx": files,
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run/lab.json").write_text(json.dumps(facts))
    hosts = nginx.hosts_of(tmp_path)
    assert [(host.port, host.upstream) for host in hosts] == [(18701, 18704), (18702, 18703)]
    assert hosts[0].certificate == tmp_path / "etc/gitlab/ssl/a.crt"
    (tmp_path / "run/lab.json").write_text(json.dumps({**facts, "registry_external_url": None}))
    assert [host.port for host in nginx.hosts_of(tmp_path)] == [18701]

"""The HTTP session: what it sends, what it repeats, what it follows, and what its errors say (and never say)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_http import Answer, ScriptedServer, json_answer, scripted

from georeg_lab.pki import Authority
from georeg_nb.credentials import Secret
from georeg_nb.errors import HttpRefused, Unreachable
from georeg_nb.http import BasicAuth, HeaderAuth, HttpSession, without_query

TOKEN = "glpat-correct-horse"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted() as server:
        yield server


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def session(server: ScriptedServer, pauses: list[float]) -> Iterator[HttpSession]:
    with HttpSession(server.url, site="primary", sleep=pauses.append, timeout=(2, 2)) as session:
        yield session


def test_the_token_goes_where_it_is_told_and_netrc_nowhere(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.plan("GET", "/a", Answer())
    secret = Secret(TOKEN, "token")
    for auth, name, value in [
        (HeaderAuth("PRIVATE-TOKEN", secret), "Private-Token", TOKEN),
        (HeaderAuth("Authorization", secret, "Bearer "), "Authorization", f"Bearer {TOKEN}"),
        (BasicAuth("röot", Secret("pä", "token")), "Authorization", "Basic csO2b3Q6cMOk"),
        (None, "Authorization", None),
    ]:
        with HttpSession(server.url, auth=auth) as session:
            session.get("/a")
        assert server.requests[-1].headers.get(name) == value


def test_cookies_are_not_kept(server: ScriptedServer, session: HttpSession) -> None:
    server.plan("GET", "/a", Answer(headers={"Set-Cookie": "_gitlab_session=x; Path=/"}))
    session.get("/a")
    session.get("/a")
    assert "Cookie" not in server.requests[1].headers


@pytest.mark.parametrize("first", [Answer(drop=True), Answer(502), Answer(503), Answer(504), Answer(429)])
def test_hiccups_are_waited_out(
    server: ScriptedServer, session: HttpSession, pauses: list[float], first: Answer
) -> None:
    server.plan("GET", "/a", first, first, Answer(body=b"here"))
    assert session.get("/a").content == b"here"
    assert len(pauses) == 2 and 0 < pauses[0] <= 0.5 and pauses[1] <= 1


def test_the_server_may_say_how_long(server: ScriptedServer, session: HttpSession, pauses: list[float]) -> None:
    busy = Answer(429, headers={"Retry-After": "7"})
    past = Answer(503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    server.plan("GET", "/a", busy, Answer(429, headers={"Retry-After": "86400"}), past, Answer())
    session.get("/a")
    assert pauses[:2] == [7, 30] and pauses[2] <= 2


@pytest.mark.parametrize("answer", [Answer(503, b"down"), Answer(drop=True)])
def test_patience_ends(server: ScriptedServer, session: HttpSession, pauses: list[float], answer: Answer) -> None:
    server.plan("GET", "/a", answer)
    with pytest.raises(Unreachable):
        session.get("/a")
    assert len(server.requests) == 4 and len(pauses) == 3


def test_what_changes_something_is_sent_once(server: ScriptedServer, session: HttpSession) -> None:
    server.plan("POST", "/a", Answer(503))
    with pytest.raises(HttpRefused):
        session.request("POST", "/a", data=b"x")
    assert len(server.requests) == 1
    server.plan("PUT", "/a", Answer(drop=True), Answer())
    session.request("PUT", "/a", data=b"x", repeat=True)
    assert [request.body for request in server.came("PUT", "/a")] == [b"x", b"x"]


def test_an_answer_that_is_no_success(server: ScriptedServer, session: HttpSession) -> None:
    server.plan("GET", "/a?token=x", json_answer({"message": "403 Forbidden"}, 403))
    with pytest.raises(HttpRefused) as caught:
        session.get("/a", params={"token": "x"})
    error = caught.value
    assert (error.status, error.site, error.exit_code) == (403, "primary", 3)
    assert str(error).startswith(f'primary: GET {server.url}/a answered 403: {{"message": "403 Forbidden"}}')
    assert "an administrator" in error.remedy and "token=x" not in str(error)


def test_errors_never_show_what_was_sent(server: ScriptedServer, session: HttpSession) -> None:
    server.plan("GET", "/a", Answer(401, f"you sent {TOKEN} and {TOKEN}".encode()))
    secret = Secret(TOKEN, "token", masked=False)
    with pytest.raises(HttpRefused) as caught:
        session.get("/a", auth=HeaderAuth("Authorization", secret, "Bearer "))
    assert TOKEN not in str(caught.value) and TOKEN not in caught.value.body
    assert without_query("https://user:word@host:1/a?b=c#d") == "https://host:1/a"


def test_a_redirect_is_refused_unless_it_is_expected(server: ScriptedServer, session: HttpSession) -> None:
    server.plan("GET", "/a", Answer(302, headers={"Location": "/users/sign_in?x=y"}))
    with pytest.raises(HttpRefused, match=r"answered 302 \(to http://127.0.0.1:\d+/users/sign_in\)") as caught:
        session.get("/a")
    assert "not the site's own" in caught.value.remedy


def test_no_token_follows_a_redirect_to_another_host(server: ScriptedServer, session: HttpSession) -> None:
    with scripted() as storage:
        secret = HeaderAuth("Authorization", Secret(TOKEN, "token"), "Bearer ")
        server.plan("GET", "/blob", Answer(307, headers={"Location": f"{storage.url}/bucket?signature=abc"}))
        server.plan("GET", "/moved", Answer(308, headers={"Location": "/blob"}))
        storage.plan("GET", "/bucket?signature=abc", Answer(body=b"content"))
        found = session.request("GET", "/moved", follow=True, auth=secret, headers={"X-Ours": TOKEN})
        assert found.content == b"content"
        assert [r.headers.get("Authorization") for r in server.requests] == [f"Bearer {TOKEN}"] * 2
        assert not any(TOKEN in value for value in storage.requests[0].headers.values())


def test_redirects_end(server: ScriptedServer, session: HttpSession) -> None:
    server.plan("GET", "/a", Answer(302, headers={"Location": "/a"}))
    with pytest.raises(HttpRefused):
        session.request("GET", "/a", follow=True)
    assert len(server.requests) == 5


def test_an_answer_without_end_is_cut(server: ScriptedServer, session: HttpSession) -> None:
    server.plan("GET", "/a", Answer(body=b"x" * 100_000))
    with pytest.raises(HttpRefused, match="more than 1000 bytes"):
        session.get("/a", max_bytes=1000)


def test_other_addresses_are_refused(session: HttpSession) -> None:
    with pytest.raises(ValueError, match="is not below"):
        session.get("http://127.0.0.1:1/a?secret=x")


# no answer


def no_answer(url: str, **options: object) -> Unreachable:
    session = HttpSession(url, sleep=lambda seconds: None, timeout=(0.3, 0.3), **options)  # type: ignore[arg-type]
    with session, pytest.raises(Unreachable) as caught:
        session.get("/a")
    assert not isinstance(caught.value, HttpRefused) and caught.value.remedy
    return caught.value


def test_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "the connection is refused" in str(no_answer(f"http://127.0.0.1:{port}"))


def test_nobody_answers() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        assert "no answer in time" in str(no_answer(f"http://127.0.0.1:{silent.getsockname()[1]}"))


def test_who_gave_no_answer_is_asked_once_until_it_answers(server: ScriptedServer, pauses: list[float]) -> None:
    """A host that is down must not cost every check of it the whole patience."""
    lost = Answer(drop=True)
    server.plan("GET", "/a", lost, lost, lost, lost, lost, Answer(), lost, Answer())
    with HttpSession(server.url, sleep=pauses.append, timeout=(2, 2)) as session:
        for patience in (3, 0):
            pauses.clear()
            with pytest.raises(Unreachable):
                session.get("/a")
            assert len(pauses) == patience
        assert session.get("/a").status_code == 200
        assert session.get("/a").status_code == 200  # patient again
        assert len(pauses) == 1


def test_no_such_host() -> None:
    assert "the host name is unknown" in str(no_answer("https://no-such-host.invalid"))


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[ScriptedServer, Path]]:
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.issue("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with scripted(context) as server:
        yield server, authority.certificate_file


def test_certificates_are_checked_against_the_given_authority(tls: tuple[ScriptedServer, Path], tmp_path: Path) -> None:
    server, ca = tls
    server.plan("GET", "/a", Answer(body=b"safe"))
    with HttpSession(server.url, ca=ca) as session:
        assert session.get("/a").content == b"safe"
    for authority in (None, Authority(tmp_path / "other").certificate_file):
        error = no_answer(server.url, ca=authority)
        assert "certificate is refused: unable to get local issuer certificate" in str(error)
        assert "set `ca`" in error.remedy
    assert len(server.requests) == 1


def test_tls_is_not_traded_for_plain_text(tls: tuple[ScriptedServer, Path], server: ScriptedServer) -> None:
    secure, ca = tls
    secure.plan("GET", "/a", Answer(302, headers={"Location": f"{server.url}/a"}))
    with HttpSession(secure.url, ca=ca) as session, pytest.raises(HttpRefused, match="302"):
        session.request("GET", "/a", follow=True)
    assert server.requests == []


def test_https_to_a_plain_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            client, _ = plain.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                client.recv(1000)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        error = no_answer(f"https://127.0.0.1:{plain.getsockname()[1]}")
        thread.join(10)
    assert "TLS fails" in str(error) and "meant for https" in error.remedy

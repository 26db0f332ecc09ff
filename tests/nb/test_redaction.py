"""Canary secrets in every form that they take on their way out, and in everything that a kernel sends."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest

from georeg_nb import redaction
from georeg_nb.redaction import find_secrets, redact, redact_object, register

CANARIES = [
    "glpat-C4naryC4nary_x",
    "pass word+with/slash=",
    "quo\"te'd \\back#{slash}",
    "ünïcødé-geheim",
    "<html>&amp;",
    "abcd",
    "tab\tand\x01control",
]
MASK = "[secret: canary]"


def forms(secret: str) -> dict[str, str]:
    """Every form of the issue, as programs really produce them."""
    data = secret.encode()
    result = {
        "raw": secret,
        "json": json.dumps({"password": secret}),
        "json unescaped": json.dumps([secret], ensure_ascii=False),
        "json in json": json.dumps({"log": json.dumps({"password": secret})}),
        "json of Go": json.dumps(secret).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
        "url component": quote(secret, safe=""),
        "url": f"postgresql://registry:{quote(secret)}@db/registry",
        "url lower case": re.sub("%..", lambda found: found[0].lower(), quote(secret, safe="")),
        "form": urlencode({"password": secret}),
        "plus": quote_plus(secret),
        "shell": shlex.join(["psql", secret]),
        "repr": repr({"password": secret}),
        "ascii": ascii(secret),
        "bytes": repr(data),
        "html": f"<td>{html.escape(secret)}</td>",
        "ruby": "'" + secret.replace("\\", "\\\\").replace("'", "\\'") + "'",
        "sql": "'" + secret.replace("'", "''") + "'",
        "base64": base64.b64encode(data).decode(),
        "base64 url": base64.urlsafe_b64encode(data).decode(),
    }
    for shift in range(3):
        inside = b"u" * (shift + 3) + b":" + data + b"\n"
        result[f"base64 aligned at {shift}"] = base64.b64encode(inside).decode()
        result[f"base64 url aligned at {shift}"] = base64.urlsafe_b64encode(inside).decode()
    return result


@pytest.mark.parametrize("secret", CANARIES)
def test_every_form_is_masked(secret: str) -> None:
    register(secret, "canary")
    for name, text in forms(secret).items():
        if len(secret) < 6 and name.startswith("base64") and "aligned" in name:
            continue  # what is left of four characters at a shift occurs by chance everywhere
        masked = redact(f"before {text} after")
        assert MASK in masked, name
        assert secret not in masked, name
        assert find_secrets(text) == ["canary"], name
        assert masked.startswith("before ")
        assert masked.endswith(" after")


def test_base64_keeps_nothing_that_gives_the_secret_away() -> None:
    secret = "a-very-long-and-secret-token-0123456789"
    register(secret, "canary")
    for shift in range(3):
        text = redact(base64.b64encode(b"x" * shift + secret.encode() + b"tail").decode())
        left = text.replace(MASK, "")
        assert len(left) <= 4 + 8  # characters around it that also hold bits of its neighbours


def test_longest_first_and_masks_are_not_searched_again() -> None:
    register("secret", "secret canary")
    register("secret-and-more", "longer")
    assert redact("secret-and-more secret") == "[secret: longer] [secret: secret canary]"
    register("longer", "third")
    assert redact("secret-and-more") == "[secret: longer]"


def test_short_and_everyday_values_are_left_alone() -> None:
    assert not register("abc", "short")
    assert not register("registry", "weak")
    assert redact("abc registry") == "abc registry"
    assert register("gitlabX", "fine")


def test_a_key_is_masked_line_by_line() -> None:
    lines = [
        "-----BEGIN RSA PRIVATE KEY-----",
        "MIIEowIBAAKCAQEAabcdefghij",
        "zyxwvutsrqponmlkjihgfe",
        "-----END RSA PRIVATE KEY-----",
    ]
    register("\n".join(lines) + "\n", "key")
    indented = "\n".join("      " + line for line in lines)
    masked = redact(indented)
    assert "MIIEow" not in masked
    assert "zyxw" not in masked


def test_objects_keys_bytes_and_nested_values() -> None:
    register("c4nary-value", "canary")
    value: Any = {"c4nary-value": ["x c4nary-value", ("c4nary-value",), 5, None, b"\xff c4nary-value"], "n": 1.5}
    masked = redact_object(value)
    assert find_secrets(repr(masked)) == []
    assert masked["n"] == 1.5
    assert masked[MASK][4] == b"\xff " + MASK.encode()


GITLAB_RB = """
external_url 'https://gitlab.example.com'
gitlab_rails['db_password'] = "c4nary-db"
gitlab_rails["initial_root_password"] ||= 'c4nary-it\\'s'
registry['database'] = {
  'enabled' => true, 'host' => 'db.example.com', 'password' => 'c4nary-hash', :sslkey => '/etc/gitlab/ssl/db.key',
}
registry['notifications'] = [
  { 'name' => 'geo_event', 'headers' => { 'Authorization' => [ 'c4nary-one', "c4nary-two" ] } }
]
gitlab_rails['redis'] = 'redis://:c4nary-redis@redis.example.com:6379'
postgresql['sql_user_password'] = %w[c4nary-words]
registry['storage'] = { 's3' => { 'accesskey' => 'c4nary-access', 'secretkey' => 'c4nary-s3', 'bucket' => 'images' } }
nginx['ssl_certificate_key'] = '/etc/gitlab/ssl/gitlab.key'
mattermost token: 'c4nary-symbol'
geo_secondary['db_dsn'] = "host=db password=c4nary-conninfo user=x"
"""


def test_what_a_gitlab_rb_holds() -> None:
    redaction.register_from_gitlab_rb(GITLAB_RB)
    masked = redact(GITLAB_RB)
    assert "c4nary" not in masked
    for harmless in (
        "db.example.com",
        "/etc/gitlab/ssl/db.key",
        "geo_event",
        "images",
        "/etc/gitlab/ssl/gitlab.key",
        "redis.example",
    ):
        assert harmless in masked
    assert redact("c4nary-it's") == "[secret: initial_root_password]"


CONFIG_YML = """
http: {addr: 127.0.0.1:5000, secret: c4nary-http}
database: {enabled: true, password: "c4nary\\"db", user: registry}
auth: {token: {realm: https://gitlab.example.com/jwt/auth, service: container_registry, rootcertbundle: /var/opt/x.crt}}
notifications: {endpoints: [{name: geo_event, headers: {Authorization: [c4nary-one, c4nary-two]}}]}
redis: {url: "redis://user:c4nary-url@redis:6379"}
storage: {s3: {accesskey: c4nary-access, secretkey: c4nary-secret}}
pin: {password: 123456}
"""


def test_what_a_rendered_configuration_holds() -> None:
    redaction.register_from_yaml(CONFIG_YML)
    masked = redact(CONFIG_YML)
    assert "c4nary" not in masked.replace('c4nary\\"db', "")
    assert redact('c4nary"db') == "[secret: password]"
    assert "123456" not in masked
    for harmless in ("https://gitlab.example.com/jwt/auth", "container_registry", "geo_event", "/var/opt/x.crt"):
        assert harmless in masked


def test_secrets_json_is_yaml_too() -> None:
    secrets = {
        "gitlab_rails": {"db_key_base": "c4nary-base", "otp_key_base": "c4nary-otp"},
        "registry": {"http_secret": "c4nary-h"},
    }
    redaction.register_from_yaml(json.dumps(secrets))
    assert "c4nary" not in redact(json.dumps(secrets))


def test_text_that_is_no_yaml_is_searched_for_urls() -> None:
    redaction.register_from_yaml("{{ postgres://u:c4nary-url@h/db")
    assert redact("c4nary-url") == "[secret: password in a URL]"


class FakeKernel:
    class Session:
        def __init__(self) -> None:
            self.sent: list[Any] = []

        def send(self, stream: Any, msg_or_type: Any, *args: Any, **kwargs: Any) -> str:
            self.sent.append((msg_or_type, args, kwargs))
            return "sent"

    def __init__(self) -> None:
        self.session = self.Session()


def test_everything_a_kernel_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.core.getipython as ipython

    kernel = FakeKernel()
    shell = type("Shell", (), {"kernel": kernel})()
    monkeypatch.setattr(ipython, "get_ipython", lambda: shell)
    register("c4nary-value", "canary")
    assert redaction.install_in_kernel()
    assert redaction.install_in_kernel()  # twice is once
    session = kernel.session
    session.send(None, "stream", {"name": "stdout", "text": "c4nary-value"})
    session.send(None, "comm_msg", content={"data": {"state": {"value": "c4nary-value"}}}, buffers=[b"c4nary-value"])
    session.send(
        None, {"header": {"id": 1}, "content": {"traceback": ["c4nary-value"]}, "metadata": {"x": "c4nary-value"}}
    )
    session.send(None, "x", {}, None, None, [memoryview(b"c4nary-value")], False, None, {"m": "c4nary-value"})
    assert len(session.sent) == 4
    assert "c4nary" not in repr(session.sent)
    assert bytes(session.sent[3][1][3][0]) == MASK.encode()


def test_without_a_kernel_there_is_nothing_to_wrap() -> None:
    assert not redaction.install_in_kernel()

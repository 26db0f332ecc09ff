"""gitlab.rb beyond the recordings: what Ruby would do, what stops it, what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from georeg_lab.omnibus.gitlab_rb import evaluate
from georeg_lab.omnibus.profiles import parse_version, profile
from georeg_lab.omnibus.render import render
from georeg_lab.omnibus.ruby_values import Refused, RubyError, plain


def registry(text: str) -> dict[str, Any]:
    found: dict[str, Any] = plain(evaluate(text.encode()).section("registry"))
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5_432", 5432),
        ("0x10", 16),
        ("-3", -3),
        ("1.5", 1.5),
        ("'it''s'", "its"),
        (r"'a\'b\n'", r"a'b\n"),
        (r'"a\n\t\"\u00e9\x41"', 'a\n\t"éA'),
        ('"x#{1 + 2}y"', "x3y"),
        ("%q(a'b)", "a'b"),
        ("%w(a b)", ["a", "b"]),
        ("%i(a b)", ["a", "b"]),
        ("{ a: 1, :b => :c, 'd' => nil, \"e\": 2, }", {"a": 1, "b": "c", "d": None, "e": 2}),
        ("[1, # one\n  2,\n]", [1, 2]),
        ("true && nil", None),
        ("(false or 'x')", "x"),
        ("!nil", True),
        ("1 == 1.0", True),
        ("'1' == 1", False),
        ("true ? 1 : 2", 1),
        ("[1] + [2]", [1, 2]),
        ("'a' + 'b'", "ab"),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert registry(f"registry['x'] = {text}\n") == {"x": value}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("registry['database']['host'] ||= 'h'", {"database": {"host": {}}}),
        ("registry['a'] = 1\nregistry['a'] ||= 2\nregistry['b'] = nil\nregistry['b'] ||= 3", {"a": 1, "b": 3}),
        ("x = { 'a' => 1 }\nregistry['x'] = x\nx['b'] = 2", {"x": {"a": 1}}),
        ("x = { 'a' => [1] }\nregistry['x'] = x\nx['a'] << 2", {"x": {"a": [1]}}),
        ("registry['x'] = [1]\nregistry['x'] += [2]", {"x": [1, 2]}),
        ("registry['a']['b']['c'] = 1\nregistry['a']['b']['d'] = 2", {"a": {"b": {"c": 1, "d": 2}}}),
        ("if false\n  registry['x'] = 1\nelsif true\n  registry['x'] = 2\nelse\n  registry['x'] = 3\nend", {"x": 2}),
        ("unless nil\n  registry['x'] = 1\nend\nregistry['y'] = 1 unless true", {"x": 1}),
        ("external_url = 'https://x'\nregistry['x'] = external_url", {"x": "https://x"}),
        ("registry[:x] = 1\nregistry['x'] = 2", {"x": 2}),
        ("=begin\nregistry['x'] = 1\n=end\n__END__\nregistry['x'] = 2", {}),
    ],
)
def test_statements(text: str, found: dict[str, Any]) -> None:
    assert registry(text) == found


def test_an_assignment_to_a_name_is_a_local_variable_and_no_setting() -> None:
    assert evaluate(b"external_url = 'https://x'\n").top.get("external_url") is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("registry['x'] = nil\nregistry['x']['y'] = 1", "NoMethodError: undefined method `[]=' for nil:NilClass"),
        ("registry['x'] = [1] + nil", "TypeError: no implicit conversion of nil into Array"),
        ("registry['x'] = 'a' + 1", "TypeError: no implicit conversion of Integer into String"),
        ("registry['x'] = [1]['a']", "TypeError: no implicit conversion of String into Integer"),
        ("frobnicate 1", "Mixlib::Config::UnknownConfigOptionError: Cannot set unsupported config value frobnicate."),
        ("from_file '/no/such'", "IOError: Cannot open or read /no/such!"),
        ("registry['x'] = [1\n", "SyntaxError: /etc/gitlab/gitlab.rb:1: syntax error, unexpected end-of-input, "),
        ("end", "SyntaxError: /etc/gitlab/gitlab.rb:1: syntax error, unexpected `end'"),
    ],
)
def test_what_stops_reconfigure(text: str, error: str) -> None:
    def missing(path: str) -> bytes:
        raise FileNotFoundError(path)

    with pytest.raises(RubyError) as stopped:
        evaluate(text.encode(), read=missing)
    assert str(stopped.value).startswith(error)


@pytest.mark.parametrize(
    ("text", "construct"),
    [
        ("registry['x'] = RUBY_VERSION", "constant `RUBY_VERSION`"),
        ("registry['x'] = File.read('/etc/hidden')", "method call `File.read`"),
        ("registry['x'].merge!({ 'password' => 'hidden' })", "method call `registry[].merge!`"),
        ("a, b = 1, 2", "assignment to"),
        ("registry['x'] = <<~TEXT\n  hidden\nTEXT\n", "heredoc"),
        ("registry['x'] = { **y }", "hash splat argument in a hash"),
        ("[1].each { |x| registry['x'] = x }", "block of `each`"),
        ("puts 1", "method call `puts`"),
        ("registry['x'] = `hidden`", "shell command"),
        ("def x\nend", "method definition"),
        ("X = 1", "assignment to"),
        ("registry({ 'enable' => true })", "whole section `registry` set by a call"),
        ("registry['x'] = 'hidden' * 2", "operator `*`"),
    ],
)
def test_what_is_refused_by_name(text: str, construct: str) -> None:
    with pytest.raises(Refused) as refused:
        evaluate(f"\n{text}\n".encode())
    assert refused.value.construct.startswith(construct)
    assert refused.value.line == 2
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("roles ['geo_primary_rôle']", "The following invalid roles have been set in 'roles': geo_primary_rôle"),
        ("external_url 'gitlab.example.com'", "GitLab external URL must include a schema and FQDN"),
        ("external_url 'ftp://gitlab.example.com'", "Unsupported external URL scheme: ftp"),
        ("external_url 'https://a b'", "bad URI(is not URI?)"),
    ],
)
def test_errors_of_the_package(text: str, error: str) -> None:
    with pytest.raises(RubyError) as stopped:
        render(evaluate(text.encode()), profile("18.7.7"))
    assert stopped.value.message.startswith(error)


def test_other_roles_and_letsencrypt_are_refused() -> None:
    for text in ("roles ['postgres_role']", "letsencrypt['enable'] = true"):
        with pytest.raises(Refused):
            render(evaluate(text.encode()), profile("18.7.7"))


def test_two_geo_event_endpoints_and_promotion() -> None:
    endpoint = "{{ 'name' => 'geo_event', 'url' => 'u', 'headers' => {{ 'Authorization' => ['{}'] }} }}"
    text = f"registry['notifications'] = [{endpoint.format('one')}, {endpoint.format('two')}]\n"
    text += "roles ['geo_secondary_role']\n"
    rendered = render(evaluate(text.encode()), profile("18.7.7"), cluster={"primary": True, "secondary": False})
    assert rendered.section("gitlab_rails")["registry_notification_secret"] == "one"
    assert rendered.geo_role == "primary"


def test_secrets_fill_what_gitlab_rb_leaves_open() -> None:
    secrets = {"registry": {"http_secret": "kept", "internal_key": "kept"}, "gitlab_kas2": {}}
    rendered = render(evaluate(b"registry['http_secret'] = 'own'\n"), profile("18.7.7"), secrets)
    assert rendered.section("registry")["http_secret"] == "own"
    assert rendered.section("registry")["internal_key"] == "kept"
    assert "gitlab_kas2" in rendered.rails_warnings[0]


@pytest.mark.parametrize(
    ("version", "threshold", "follows"),
    [
        ("18.10.7", True, False),
        ("18.10.8", False, False),
        ("18.11.6", False, True),
        ("19.0.0", True, False),
        ("19.0.3-ee", False, True),
        ("v19.1", False, True),
    ],
)
def test_versions_that_were_mended_in_several_lines(version: str, threshold: bool, follows: bool) -> None:
    found = profile(version)
    assert (found.threshold_default, found.port_follows_postgresql) == (threshold, follows)


@pytest.mark.parametrize("text", ["16.11.0", "20.0.0", "latest", ""])
def test_unknown_versions(text: str) -> None:
    with pytest.raises(ValueError, match="version"):
        parse_version(text)

"""gitlab.rb: georeg's blocks, and nothing but them."""

from __future__ import annotations

import pytest

from georeg_nb import gitlab_rb, redaction
from georeg_nb.gitlab_rb import FencesBroken

FILE = "external_url 'https://gitlab.example.com'\n# a comment\nregistry['enable'] = true\n"


def test_put_read_replace_and_remove_leave_the_rest_byte_for_byte() -> None:
    one = gitlab_rb.put(FILE, "registry-read-only", "a['b'] = 1")
    assert one.startswith(FILE)
    two = gitlab_rb.put(one, "hold-image-sync", "c['d'] = false\ne['f'] = 'x'")
    assert gitlab_rb.blocks(two) == {
        "registry-read-only": "a['b'] = 1",
        "hold-image-sync": "c['d'] = false\ne['f'] = 'x'",
    }
    three = gitlab_rb.put(two, "registry-read-only", "a['b'] = 2")
    assert gitlab_rb.blocks(three)["registry-read-only"] == "a['b'] = 2"
    assert gitlab_rb.remove(gitlab_rb.remove(three, "registry-read-only"), "hold-image-sync") == FILE


@pytest.mark.parametrize("text", ["", FILE, FILE.rstrip("\n"), FILE + "\n\n", "# >>> something else\n"])
def test_removing_what_was_put_gives_the_file_back(text: str) -> None:
    put = gitlab_rb.put(text, "hold-image-sync", "a['b'] = 1")
    assert gitlab_rb.remove(put, "hold-image-sync").rstrip("\n") == text.rstrip("\n")


def test_put_is_idempotent_while_the_block_is_effective() -> None:
    once = gitlab_rb.put(gitlab_rb.put(FILE, "one", "a['b'] = 1"), "two", "c['d'] = 1")
    assert gitlab_rb.put(once, "one", "a['b'] = 1") == once
    assert gitlab_rb.put(once + "\n# only a comment\n", "one", "a['b'] = 1") == once + "\n# only a comment\n"


def test_a_block_that_something_follows_moves_to_the_end_where_it_wins() -> None:
    followed = gitlab_rb.put(FILE, "one", "a['b'] = 1") + "a['b'] = 2\n"
    moved = gitlab_rb.put(followed, "one", "a['b'] = 1")
    assert moved.index("a['b'] = 2") < moved.index("a['b'] = 1")
    assert list(gitlab_rb.blocks(moved)) == ["one"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# >>> georeg: one\nx\n", 1),
        ("# <<< georeg: one\n", 1),
        ("# >>> georeg: one\n# >>> georeg: two\n# <<< georeg: two\n# <<< georeg: one\n", 2),
        ("# >>> georeg: one\n# <<< georeg: two\n", 2),
        ("# >>> georeg: one\n# <<< georeg: one\n# >>> georeg: one\n# <<< georeg: one\n", 3),
        ("# >>> georeg: Not A Name\n", 1),
    ],
)
def test_broken_fences_stop_everything(text: str, line: int) -> None:
    for action in (gitlab_rb.blocks, lambda t: gitlab_rb.put(t, "one", "x"), lambda t: gitlab_rb.remove(t, "one")):
        with pytest.raises(FencesBroken) as caught:
            action(text)
        assert caught.value.line == line
        assert caught.value.exit_code == 3


def test_a_block_cannot_smuggle_a_fence() -> None:
    with pytest.raises(ValueError, match="fence"):
        gitlab_rb.put(FILE, "one", "x\n# <<< georeg: one\ny")


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (None, "nil"),
        (True, "true"),
        (False, "false"),
        (5432, "5432"),
        (1.5, "1.5"),
        ("plain", "'plain'"),
        ("it's", "'it\\'s'"),
        ("back\\slash", "'back\\\\slash'"),
        ("ends with \\", "'ends with \\\\'"),
        ("#{`id`} #$x", "'#{`id`} #$x'"),
        ("two\nlines #{x}", '"two\\nlines \\#{x}"'),
        ('tab\t"quote"', '"tab\\t\\"quote\\""'),
        ("bell\a", '"bell\\u{7}"'),
        ("Grüße", "'Grüße'"),
        ([], "[]"),
        (["a", 1], "['a', 1]"),
        ({}, "{}"),
        ({"a": {"b": True}}, "{\n  'a' => {\n    'b' => true\n  }\n}"),
    ],
)
def test_ruby_literals(value: gitlab_rb.RubyValue, literal: str) -> None:
    assert gitlab_rb.ruby(value) == literal


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nul\0", {1: "x"}])
def test_what_has_no_literal_is_refused(value: gitlab_rb.RubyValue) -> None:
    with pytest.raises(ValueError):
        gitlab_rb.ruby(value)


def test_assignments() -> None:
    assert gitlab_rb.assignment("registry", ["database", "enabled"], True) == "registry['database']['enabled'] = true"
    with pytest.raises(ValueError):
        gitlab_rb.assignment("registry; x", ["a"], 1)


def test_the_external_database_is_always_the_complete_hash() -> None:
    text = gitlab_rb.external_database(
        enabled=True,
        host="db.example.com",
        port=5432,
        user="registry",
        password="it's \\ #{secret}",
        dbname="registry",
        sslmode="verify-full",
        sslrootcert="/etc/gitlab/ssl/db-ca.crt",
    )
    assert text == (
        "registry['database'] = {\n  'enabled' => true,\n  'host' => 'db.example.com',\n  'port' => 5432,\n"
        "  'user' => 'registry',\n  'password' => 'it\\'s \\\\ #{secret}',\n  'dbname' => 'registry',\n"
        "  'sslmode' => 'verify-full',\n  'sslrootcert' => '/etc/gitlab/ssl/db-ca.crt'\n}"
    )


FILESYSTEM = {
    "filesystem": {"rootdirectory": "/srv/registry"},
    "cache": {"blobdescriptor": "inmemory"},
    "delete": {"enabled": True},
}


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        (
            FILESYSTEM,
            "registry['storage']['filesystem'] = {\n  'rootdirectory' => '/srv/registry'\n}\n"
            "registry['storage']['maintenance']['readonly'] = {\n  'enabled' => true\n}",
        ),
        (
            {"s3": {"bucket": "b", "secretkey": "k"}, "maintenance": {"uploadpurging": {"enabled": False}}},
            "registry['storage']['maintenance']['readonly'] = {\n  'enabled' => true\n}",
        ),
    ],
)
def test_read_only_never_suppresses_the_default_driver_and_never_copies_keys(
    storage: dict[str, gitlab_rb.RubyValue], expected: str
) -> None:
    assert gitlab_rb.read_only(storage) == expected


@pytest.mark.parametrize("storage", [{"cache": {}}, {"s3": {}, "filesystem": {}}])
def test_read_only_needs_exactly_one_driver(storage: dict[str, gitlab_rb.RubyValue]) -> None:
    with pytest.raises(ValueError, match="one storage driver"):
        gitlab_rb.read_only(storage)


def test_the_diff_shows_no_secret() -> None:
    try:
        before = FILE + "gitlab_rails['db_password'] = 'old-password-value'\n"
        after = gitlab_rb.put(before, "registry-database", "registry['database'] = { 'password' => 'canary-secret-1' }")
        shown = gitlab_rb.diff(before, after)
        assert "canary-secret-1" not in shown and "old-password-value" not in shown
        assert "+# >>> georeg: registry-database" in shown
        assert gitlab_rb.diff(before, before) == ""
    finally:
        redaction.forget_all()


def test_edit_puts_and_removes_in_one_go() -> None:
    text = gitlab_rb.edit(FILE, {"one": "a['b'] = 1", "two": "c['d'] = 2"})
    assert gitlab_rb.blocks(gitlab_rb.edit(text, {"one": None, "two": "c['d'] = 3"})) == {"two": "c['d'] = 3"}

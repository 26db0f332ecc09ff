"""The table of harmless commands: what is in it, and what must never get in."""

from __future__ import annotations

import pytest

from georeg_nb.readers import CURL, READERS, RUNNER_EXPRESSIONS, NotAReader, Reader, require, selects_only


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.program)
def test_every_entry_accepts_its_example_and_says_why(reader: Reader) -> None:
    assert require([reader.program, *reader.example]).program == reader.program
    assert reader.why
    assert not reader.accepts(("--a-flag-that-nobody-has", "x", "-delete")) or reader.program == "test"


@pytest.mark.parametrize(
    "argv",
    [
        "gitlab-ctl reconfigure",
        "gitlab-ctl restart registry",
        "gitlab-ctl show-config",
        "gitlab-ctl diff-config",
        "gitlab-ctl status ; reboot",
        "gitlab-ctl registry-database migrate status",
        "gitlab-ctl registry-database import --dry-run",
        "registry database migrate status config.yml",
        "registry serve",
        "gitlab-rake gitlab:geo:check extra",
        "gitlab-rake geo:set_primary_node",
        "gitlab-rails console",
        "ruby /etc/gitlab/gitlab.rb",
        "ruby -c -e 1",
        "find / -delete",
        "find / -exec rm {} +",
        "find / -fprint /etc/passwd",
        "find / -fls x",
        "find / -okdir x",
        "tail -f /var/log/gitlab/registry/current",
        "tail --follow /x",
        "date -s 2026-01-01",
        "date 010100002026",
        "hostname other",
        "sh -c true",
        "/tmp/cat /etc/passwd",
        "./cat x",
        "cat",
        "ldd /tmp/own-program",
        "psql -c SELECT",
        "curl https://registry.example.com/v2/",
        f"curl {' '.join(CURL)} https://user:secret@registry.example.com/v2/",
        f"curl {' '.join(CURL)} https://gitlab.example.com/api/v4/version",
        f"curl {' '.join(CURL)} -X DELETE https://registry.example.com/v2/",
        f"curl {' '.join(CURL)} file:///v2/",
    ],
)
def test_what_changes_something_is_refused(argv: str) -> None:
    with pytest.raises(NotAReader):
        require(argv.split())


def test_runner_takes_the_listed_expressions_only() -> None:
    for expression in RUNNER_EXPRESSIONS:
        require(["gitlab-rails", "runner", expression])
        with pytest.raises(NotAReader):
            require(["gitlab-rails", "runner", expression + "; ContainerRepository.delete_all"])


def test_input_is_refused_unless_the_entry_says_so() -> None:
    with pytest.raises(NotAReader, match="with input"):
        require(["gitlab-psql", "-tAc", "SELECT 1"], stdin=True)
    require(["/opt/gitlab/embedded/bin/ruby", "-c"], stdin=True)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT pg_is_in_recovery()",
        "select 1;",
        "SHOW server_version",
        "SELECT 1 FROM pg_database WHERE datname='registry'",
        "SELECT count(*) FILTER (WHERE state IN ('2', 'synced')) FROM container_repository_registry",
        "SELECT 'drop table x; it''s (only) text'",
        "SELECT coalesce(max(id), 0) FROM geo_events",
        "SELECT system_identifier FROM pg_control_system()",
        'SELECT "odd;name" FROM (SELECT 1) x',
    ],
)
def test_selects(sql: str) -> None:
    assert selects_only(sql)
    require(["gitlab-psql", "-d", "gitlabhq_production", "-tAc", sql])


@pytest.mark.parametrize(
    "sql",
    [
        "TRUNCATE tags",
        "SELECT 1; DROP TABLE tags",
        "SELECT 1 INTO x",
        "SELECT * FROM tags FOR UPDATE",
        "SELECT * FROM tags FOR NO KEY UPDATE",
        "SELECT nextval('s')",
        "SELECT pg_catalog.setval('s', 1)",
        "SELECT pg_reload_conf ()",
        "SELECT set_config('a', 'b', false)",
        'SELECT "pg_reload_conf"()',
        "WITH x AS (DELETE FROM tags RETURNING 1) SELECT * FROM x",
        "SELECT * FROM (DELETE FROM tags) x; SELECT 1",
        "SELECT E'\\'; DROP TABLE tags; --'",
        "SELECT $$a$$, pg_reload_conf()",
        "SELECT 1 /* ' */ ; DROP TABLE tags; -- '",
        "SELECT 'unterminated",
        "\\! reboot",
        "SELECT 1 \\gexec",
        "EXPLAIN ANALYZE DELETE FROM tags",
        "COPY tags TO PROGRAM 'x'",
        "SHOW",
        "",
    ],
)
def test_no_selects(sql: str) -> None:
    assert not selects_only(sql)

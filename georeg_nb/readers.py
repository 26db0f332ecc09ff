"""The commands that checks may run on a node: each only reads, and says why.

`Node.run` refuses everything else, so a plan cannot change a node by accident. Not here on purpose:
`gitlab-ctl registry-database …` (starts the registry after any success; `migrate status` writes), `gitlab-ctl
show-config` and `diff-config` (write gitlab-secrets.json, print secrets), `registry database …` (its `migrate status`
writes as well).
Source: procedures 2.0, 4.5, 7.2; registry 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Accepts = Callable[[tuple[str, ...]], bool]

GEO_ROLE = 'puts Gitlab::Geo.primary? ? "primary" : Gitlab::Geo.secondary? ? "secondary" : "none"'
REPLICATION_ENABLED = "puts Geo::ContainerRepositoryRegistry.replication_enabled?"
STORAGE_NAMES = "puts Gitlab.config.repositories.storages.keys"
RUNNING_SYNC_JOBS = (
    "puts Sidekiq::WorkSet.new.count { |_, _, work| "
    "%w[Geo::SyncWorker Geo::EventWorker Geo::ContainerRepositorySyncWorker].include?(work.job.klass) "
    '&& (work.job.klass.include?("ContainerRepository") || work.job.args.first == "container_repository") }'
)
SYNC_LEASES = (
    "puts Gitlab::Redis::SharedState.with { |redis| "
    'redis.scan_each(match: "gitlab:exclusive_lease:geo_container_sync:*").to_a.uniq.size }'
)

# gitlab-rails runner evaluates any Ruby, so only these very texts are readers.
RUNNER_EXPRESSIONS = {
    GEO_ROLE: "the site's Geo role",
    "puts ContainerRepository.count": "repositories that Rails knows",
    STORAGE_NAMES: "names of the Git storages",
    'puts Geo::Event.where(replicable_name: "container_repository").maximum(:id)': "the newest Geo event of an image",
    REPLICATION_ENABLED: "does this secondary replicate images?",
    RUNNING_SYNC_JOBS: "image syncs that Sidekiq works on",
    SYNC_LEASES: "repositories that a sync holds a lease of",
}
RAKE_TASKS = {
    "geo:status": "prints the secondary's report",
    "geo:site:role": "prints the role",
    "gitlab:geo:check": "prints its checks, changes nothing",
    "gitlab:geo:check_replication_verification_status": "prints the rows and a verdict",
}
# Functions that a SELECT may call; any other could write (nextval, set_config, pg_reload_conf, lo_import …).
SQL_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        """
        abs age array_agg bool_and bool_or cast coalesce count current_database current_setting date_trunc exists
        extract floor greatest has_database_privilege has_schema_privilege has_table_privilege in inet_server_addr
        inet_server_port jsonb_agg jsonb_build_object least length lower max min now nullif pg_control_system
        pg_current_wal_lsn pg_database_size pg_get_userbyid pg_is_in_recovery pg_last_wal_receive_lsn
        pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_postmaster_start_time pg_relation_size pg_size_pretty
        pg_total_relation_size pg_wal_lsn_diff round row_to_json string_agg substring sum to_char to_regclass trim
        upper values version
        """,
    )
)
SQL_WORDS = frozenset(  # a parenthesis may follow these too, without a call
    re.findall(r"\w+", "and or not as on from where select any all when then else case between over filter by using")
)


CERTIFICATES = "/opt/gitlab/embedded/ssl/certs"
# asks for the head of a registry's answer as GitLab itself would: from the node, with the authorities it trusts
CURL = tuple(f"-sS -o /dev/null -D - --max-time 30 --cacert {CERTIFICATES}/cacert.pem --capath {CERTIFICATES}".split())


class NotAReader(AssertionError):
    """A check wants to run a command that is not known to be harmless: a mistake in georeg, found before it ran."""


@dataclass(frozen=True)
class Reader:
    """One form of a command. `accepts` judges the arguments behind the program; `example` is one that it accepts."""

    program: str
    why: str
    accepts: Accepts
    example: tuple[str, ...]
    stdin: bool = False


def require(argv: Sequence[str], *, stdin: bool = False) -> Reader:
    """The table's entry for a command. Raises NotAReader when there is none."""
    program, *arguments = argv
    name = program.rpartition("/")[2]
    if program in (name, *(f"{folder}/{name}" for folder in _FOLDERS)):
        for reader in READERS:
            if reader.program == name and (reader.stdin or not stdin) and reader.accepts(tuple(arguments)):
                return reader
    raise NotAReader(f"not a command that only reads: {' '.join(argv)}{' with input' if stdin else ''}")


def selects_only(sql: str) -> bool:
    """Is this one SELECT or SHOW statement that can change nothing, judged by an allow-list of functions?"""
    if re.search(r"\\|--|/\*|\$\w*\$|\b[eEuU]&?'", sql):
        return False
    bare = re.sub(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", " 0 ", sql).strip().removesuffix(";").lower()
    if ";" in bare or "'" in bare or '"' in bare:
        return False
    if re.fullmatch(r"show\s+[a-z_.]+", bare):
        return True
    if not re.match(r"select\b", bare) or re.search(r"\b(into|for\s+(no\s+key\s+|key\s+)?(update|share))\b", bare):
        return False
    return all(name in SQL_FUNCTIONS | SQL_WORDS for name in re.findall(r"([\w.]+)\s*\(", bare))


def _exactly(*texts: str) -> Accepts:
    return lambda arguments: arguments == texts


def _options_and_operands(options: str, values: str = "", operands: str = r"[^-].*|-", least: int = 0) -> Accepts:
    """Options (a pattern), options that take the next argument as value (a pattern), and at least so many operands."""

    def accepts(arguments: tuple[str, ...]) -> bool:
        count, rest = 0, list(arguments)
        while rest:
            argument = rest.pop(0)
            if values and re.fullmatch(values, argument) and rest:
                rest.pop(0)
            elif re.fullmatch(operands, argument):
                count += 1
            elif not (options and re.fullmatch(options, argument)):
                return False
        return count >= least

    return accepts


def _psql(arguments: tuple[str, ...]) -> bool:
    rest, sql = list(arguments), None
    while rest:
        argument = rest.pop(0)
        if re.fullmatch(r"-[tAXq]*c", argument) and rest and sql is None:
            sql = rest.pop(0)
        elif argument in ("-d", "-F") and rest:
            if re.fullmatch(r"[\w-]+|[|,;\t]", rest.pop(0)) is None:
                return False
        elif not re.fullmatch(r"-[tAXq]+|--csv|--no-psqlrc", argument):
            return False
    return sql is not None and selects_only(sql)


def _find(arguments: tuple[str, ...]) -> bool:
    tests = r"-(i?name|path|type|m(ax|in)depth|user|group|perm|size|mtime|mmin|newer|print0?|prune|not|o|a|empty|xdev)"
    return all(re.fullmatch(tests, text) or not text.startswith("-") or text[1:].isdigit() for text in arguments)


def _file_tool(program: str, why: str, options: str, example: str, values: str = "", least: int = 1) -> Reader:
    return Reader(program, why, _options_and_operands(options, values, least=least), tuple(example.split()))


_FOLDERS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/opt/gitlab/bin", "/opt/gitlab/embedded/bin")
READERS: tuple[Reader, ...] = (
    Reader(
        "gitlab-ctl",
        "asks the supervisor, sends no signal",
        lambda a: bool(a) and a[0] == "status" and all(re.fullmatch(r"[a-z0-9-]+", text) for text in a),
        ("status", "registry"),
    ),
    Reader(
        "gitlab-psql",
        "one SELECT or SHOW with harmless functions",
        _psql,
        ("-d", "gitlabhq_production", "-tAc", "SELECT pg_is_in_recovery()"),
    ),
    Reader(
        "gitlab-geo-psql",
        "the same in the tracking database",
        _psql,
        ("-tAc", "SELECT count(*) FROM container_repository_registry"),
    ),
    Reader(
        "gitlab-rails",
        "one of the listed expressions, each only prints",
        lambda a: len(a) == 2 and a[0] == "runner" and a[1] in RUNNER_EXPRESSIONS,
        ("runner", "puts ContainerRepository.count"),
    ),
    Reader(
        "gitlab-rake",
        "one of the listed tasks, each only prints",
        lambda a: len(a) == 1 and a[0] in RAKE_TASKS,
        ("geo:status",),
    ),
    Reader("registry", "prints its version and ends", _exactly("--version"), ("--version",)),
    Reader("psql", "prints its version and ends", _exactly("--version"), ("--version",)),
    Reader(
        "ruby",
        "parses, runs nothing",
        lambda a: a[:1] == ("-c",) and len(a) <= 2 and not any(text.startswith("-") for text in a[1:]),
        ("-c", "/etc/gitlab/gitlab.rb"),
        stdin=True,
    ),
    Reader(
        "curl",
        "GETs the head of a registry's /v2/, without credentials",
        lambda a: a[:-1] == CURL and re.fullmatch(r"https?://[\w.:\[\]-]+/v2/", a[-1]) is not None,
        (*CURL, "https://registry.example.com:5050/v2/"),
    ),
    Reader(
        "ldd",
        "lists shared libraries",
        _options_and_operands("", operands=r"/opt/gitlab/embedded/.*", least=1),
        ("/opt/gitlab/embedded/bin/registry",),
    ),
    Reader("ldd", "prints its version, which is glibc's", _exactly("--version"), ("--version",)),
    Reader(
        "find",
        "without -exec, -delete, -ok, -fprint and -fls",
        _find,
        ("/var/opt/gitlab", "-maxdepth", "1", "-type", "d"),
    ),
    Reader("test", "evaluates a condition", lambda a: bool(a), ("-e", "/etc/gitlab/gitlab.rb")),
    _file_tool("cat", "prints files", "", "/opt/gitlab/version-manifest.txt"),
    _file_tool("head", "prints the start of files", r"-n?\d+|-n|-c", "-1 /opt/gitlab/version-manifest.txt", r"-n|-c"),
    _file_tool(
        "tail",
        "prints the end of files (never -f: it would not end)",
        r"-n?\d+|-n|-c",
        "-n 50 /var/log/gitlab/registry/current",
        r"-n|-c",
    ),
    _file_tool("stat", "prints what a file is", r"-L|--format=.*", "-c %U:%a /etc/gitlab/gitlab.rb", r"-c"),
    _file_tool("ls", "lists a folder", r"-[a-zA-Z1]+", "-l /var/opt/gitlab/registry"),
    _file_tool(
        "du", "adds up sizes", r"-[shkmbx]+|--apparent-size", "-sk /var/opt/gitlab/gitlab-rails/shared/registry"
    ),
    _file_tool("df", "prints free space", r"-[hkPTi]+", "-Pk /var/opt/gitlab"),
    _file_tool("sha256sum", "prints a digest", "", "/etc/gitlab/gitlab.rb"),
    _file_tool("readlink", "prints where a link leads", r"-[fem]", "-f /opt/gitlab/service/registry"),
    _file_tool("id", "prints a user's numbers", r"-[ugnG]+", "-u registry", least=0),
    _file_tool("uname", "prints the system's name", r"-[asrvmn]+", "-r", least=0),
    Reader(
        "date",
        "prints the time (setting it needs -s or digits)",
        lambda a: all(re.fullmatch(r"-u|\+.*", t) for t in a),
        ("-u", "+%s"),
    ),
    Reader(
        "hostname",
        "prints the name (setting it needs an operand)",
        lambda a: all(t in ("-f", "-s") for t in a),
        ("-f",),
    ),
    Reader("nproc", "prints the number of processors", lambda a: not a, ()),
)

"""Plain shell for the break-glass sheet: names that every line of it uses, and changes of georeg's blocks in gitlab.rb.

Made from the constants and blocks that the steps use, so that sheet and steps say the same. No secret is in it: the
database's password is read from what GitLab rendered on the node, the access token is typed.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence

from georeg_nb import gitlab_rb
from georeg_nb.errors import GeoregError
from georeg_nb.metadata_db import TAG_LINES
from georeg_nb.nodes import JOBS
from georeg_nb.omnibus import LOCKFILES, REGISTRY_CONFIG
from georeg_nb.omnibus.control import BACKUPS
from georeg_nb.readers import CERTIFICATES
from georeg_nb.runbook.by_hand import Paste, Place
from georeg_nb.runbook.locks import LOCK
from georeg_nb.site import KEEP, Site

FOLDER = "/var/lib/georeg/by-hand"
RECONFIGURE = f"/opt/gitlab/embedded/bin/ruby -c {gitlab_rb.PATH} && gitlab-ctl reconfigure"

_NAMES = r"""
# Sets names, changes nothing. For sh or bash, as root.
mkdir -p -m 700 @FOLDER@
PATH=$PATH:/opt/gitlab/embedded/bin
kept=@KEEP@
locks=@LOCKS@
repository=@REPOSITORY@
registry_db=@DATABASE@
registry=http://$(sed -n 's/^  addr: *//p' @CONFIG@ | sed 's/^:/127.0.0.1:/')
realm=$(sed -n 's/^    realm: *//p' @CONFIG@)
web() { curl -sS --retry 30 --retry-delay 1 --retry-connrefused --cacert @CERTS@/cacert.pem --capath @CERTS@ "$@"; }
ask() { printf '%s: ' "$1"; stty -echo 2>/dev/null; read -r "$1"; stty echo 2>/dev/null; echo; }  # unseen
bearer() {  # a token of the registry for a scope
    printf 'user = "root:%s"\n' "$token" | web -K - "$realm?service=container_registry&scope=$1" |
        sed 's/.*"token": *"\([^"]*\)".*/header = "Authorization: Bearer \1"/'
}
upload() {  # asks this node's registry to take an upload: 202 it does, 405 pushes are refused
    bearer "repository:$repository:pull,push" |
        web -K - -o /dev/null -w '%{http_code}\n' -X POST "$registry/v2/$repository/blobs/uploads/"
}
on_database() {  # what this node's registry says of itself: true or false
    bearer '' | web -K - -o /dev/null -D - "$registry/v2/" | tr -d '\r' |
        sed -n 's/^gitlab-container-registry-database-enabled: *//Ip'
}
password() { sed -nE 's/^database: .*"password":"((\\.|[^"\\])*)".*/\1/p' @CONFIG@ | sed 's/\\\(.\)/\1/g'; }
db() { PGPASSWORD=$(password) /opt/gitlab/embedded/bin/psql "$registry_db" -wXAtq -v ON_ERROR_STOP=1 "$@"; }
at_work() {  # commands that georeg started on this node and that go on without it
    for job in @JOBS@/*/*; do
        [ -e "$job/exit" ] || [ ! -e "$job/pid" ] || [ -z "$(pgrep -s "$(cut -d' ' -f1 "$job/pid")")" ] || echo "$job"
    done
}
wait_for_georeg() { while [ -n "$(at_work)" ]; do at_work; sleep 2; done; }
copy_gitlab_rb() { cp -p @GITLAB_RB@ "@FOLDER@/gitlab.rb.$(date -u +%Y%m%dT%H%M%S.%N)"; }
tags_in_db() {
    db -c "@TAG_LINES@" | LC_ALL=C sort
}
@TAGS_BEFORE@
both_lists() {  # what is agreed to be lost is in neither
    tags_before | @LOSSES@ >@FOLDER@/before
    tags_in_db | @LOSSES@ >@FOLDER@/database
    [ -s @FOLDER@/before ]
}
same_tags() { both_lists && diff @FOLDER@/before @FOLDER@/database; }  # the differences are shown
import_ended() { @ENDED@; }
never_enabled() {  # this database was never worked on: the tags in it are copies of what lies in the storage
    [ ! -e "$kept/enabled.json" ] && grep -q '^database: .*"enabled":false' @CONFIG@ &&
        [ "$(db -c 'SELECT count(*) FROM tags WHERE updated_at IS NOT NULL')" = 0 ] &&
        both_lists && [ -z "$(LC_ALL=C comm -13 @FOLDER@/before @FOLDER@/database)" ]
}
put_lock_files_back() {  # as they lay when pushes were first refused
    [ -n "$locks" ] || return 0
    case $(cat "$kept/window.json" 2>/dev/null) in *'"lockfiles":[false'*) rm -f "$locks/database-in-use" ;; esac
    case $(cat "$kept/window.json" 2>/dev/null) in
    *'"lockfiles":['*',true]'*)
        if [ ! -e "$locks/filesystem-in-use" ]; then
            printf '{"version":1}' >"$locks/filesystem-in-use" && chmod 644 "$locks/filesystem-in-use"
        fi
        ;;
    esac
}
# What a later run must know is kept for it, as it would have kept it itself.
now() { date -u +%Y-%m-%dT%H:%M:%S+00:00; }
keep() { mkdir -p -m 700 "$kept" && cat >"$kept/.$1" && chmod 600 "$kept/.$1" && mv "$kept/.$1" "$kept/$1.json"; }
opened() { sed -n 's/.*"opened":"\([^"]*\)".*/\1/p' "$kept/window.json"; }
lies_there() {
    if [ -z "$locks" ]; then echo null; elif [ -e "$locks/$1-in-use" ]; then echo true; else echo false; fi
}
keep_window() {  # from when on pushes are refused, and which lock files lay there then
    grep -q '"closed":""' "$kept/window.json" 2>/dev/null && @READ_ONLY@ && return 0
    printf '{"closed":"","import_seconds":0.0,"lockfiles":[%s,%s],"opened":"%s","outcome":"","tags":0}' \
        "$(lies_there database)" "$(lies_there filesystem)" "$(now)" | keep window
}
close_window() {
    [ -e "$kept/window.json" ] || return 0
    sed "s/\"closed\":\"\"/\"closed\":\"$(now)\"/; s/\"outcome\":\"[^\"]*\"/\"outcome\":\"$1\"/" \
        "$kept/window.json" | keep window
}
keep_snapshot() {
    grep -q "\"window\":\"$(opened)\"" "$kept/snapshot.json" 2>/dev/null && return 0
    tags_before | awk -v window="$(opened)" -v taken="$(now)" '
        BEGIN { printf "{\"tags\":{" }
        $1 != path { printf "%s\"%s\":{", path == "" ? "" : "},", $1; path = $1; comma = "" }
        { printf "%s\"%s\":\"%s\"", comma, $2, $3; comma = "," }
        END { printf "%s},\"taken\":\"%s\",\"window\":\"%s\"}", path == "" ? "" : "}", taken, window }' | keep snapshot
}
keep_proof() {
    printf '{"accepted":%s,"at":"%s","tags":%d,"window":"%s"}' @ACCEPTED@ "$(now)" \
        "$(wc -l <@FOLDER@/before)" "$(opened)" | keep proof
}
keep_enabled() {
    [ -e "$kept/enabled.json" ] || printf '{"at":"%s","window":"%s"}' "$(now)" "$(opened)" | keep enabled
}
in_ruby() { printf %s "$1" | sed "s/[\\']/\\\\&/g"; }  # inside a Ruby string in single quotes
stands() { if eval "$2" >/dev/null 2>&1; then echo "done  $1"; else echo "OPEN  $1"; fi; }
"""

_FROM_LINKS = r"""tags_before() {  # repository, tag and digest of everything in the storage
    (cd @STORAGE@/docker/registry/v2/repositories &&
        find . -path '*/_manifests/tags/*/current/link' -exec grep -H . {} +) |
        sed 's#^\./\(.*\)/_manifests/tags/\([^/]*\)/current/link:#\1 \2 #' | LC_ALL=C sort
}"""

# where the storage is no file system: the list that georeg took over HTTP while pushes were refused
_FROM_SNAPSHOT = r"""tags_before() {  # repository, tag and digest as georeg read them while pushes were refused
    printf '%s\n' "\\set kept \`cat $kept/snapshot.json\`" "@SNAPSHOT@" | db | LC_ALL=C sort
}"""
_SNAPSHOT = (
    "SELECT r.key || ' ' || t.key || ' ' || t.value FROM json_each(:'kept'::json->'tags') r, json_each_text(r.value) t;"
)
COMPLETE_LOG = "metadata import complete"
_ENDED = (
    "SELECT (NOT blob_import OR blob_import_finished_at IS NOT NULL) AND tag_import_finished_at IS NOT NULL AND "
    "coalesce(pre_import_error, tag_import_error, blob_import_error, '') = '' FROM import_statistics WHERE tag_import "
    "ORDER BY id DESC LIMIT 1"
)


def place(site: Site) -> Place:
    """The names of a site's lines. Raises GeoregError where config.yml cannot be read."""
    config = site.omnibus.registry_config()
    storage = config.root_directory if config else None
    database = site.parameters.database
    parts = {
        "host": database.host,
        "port": database.port,
        "dbname": database.name,
        "user": database.user,
        "sslmode": database.sslmode,
        "sslrootcert": database.node_sslrootcert,
    }
    address = " ".join(f"{name}={_libpq(str(value))}" for name, value in parts.items() if value)
    losses = " ".join(
        f"-e {shlex.quote(f'^{_basic(path)} {_basic(tag)} ')}"
        for path, _, tag in (name.rpartition(":") for name in sorted(site.options.accept_losses))
    )
    values = {
        "@TAGS_BEFORE@": _FROM_LINKS if storage else _FROM_SNAPSHOT,
        "@SNAPSHOT@": _SNAPSHOT,
        "@FOLDER@": FOLDER,
        "@KEEP@": f"{KEEP}/{site.scenario}",
        "@LOCKS@": shlex.quote(f"{storage}/{LOCKFILES}") if storage else "",
        "@STORAGE@": shlex.quote(storage or ""),
        "@REPOSITORY@": shlex.quote(_repository(site)),
        "@DATABASE@": shlex.quote(address),
        "@CONFIG@": REGISTRY_CONFIG,
        "@CERTS@": CERTIFICATES,
        "@JOBS@": JOBS,
        "@GITLAB_RB@": gitlab_rb.PATH,
        "@TAG_LINES@": TAG_LINES,
        "@ENDED@": ended(site, _ENDED),
        "@READ_ONLY@": READ_ONLY,
        "@ACCEPTED@": shlex.quote(json.dumps(sorted(site.options.accept_losses))),
        "@LOSSES@": f"grep -v {losses}" if losses else "cat",
    }
    text = _NAMES.strip()
    for name, value in values.items():
        text = text.replace(name, value)
    facts = [
        ("who works there", f"cat {LOCK}   on {site.rails_node.name}; remove it when that run is dead"),
        ("what georeg kept", f"{KEEP}/{site.scenario}/ on {site.registry_nodes[0].name}"),
        ("gitlab.rb before a change that was cut off", f"{BACKUPS}/ on the node"),
        ("database", f"{database.host}:{database.port}/{database.name}, user {database.user}"),
    ]
    return Place(text, "ask token  # then type an access token of an administrator, with scope api", facts)


def ended(site: Site, query: str, option: str = "") -> str:
    """A test: an import ended well. By the row that the importer keeps of it (`query`), or, where the release keeps
    none, by a log that ends well: of what was pasted, or of georeg's job; with an `option`, of that step's command.
    """
    if site.profile.supports("import-statistics"):
        return f'[ "$(db -c "{query}")" = t ]'
    job, by_hand = f"{JOBS}/{site.name}-import", f"{FOLDER}/step-three.log" if option else f"{FOLDER}/*.log"
    ours = f"grep -qs '{COMPLETE_LOG}' {job}/*/output"
    ours = f"grep -qs -e {option} {job}/*/description && {ours}" if option else ours
    return f"{{ grep -qs '{COMPLETE_LOG}' {by_hand} || {{ {ours}; }}; }}"


def _repository(site: Site) -> str:
    """A repository to try an upload in; to be filled in by hand where the registry cannot tell one now."""
    try:
        return next(iter(site.registry.catalog()), "GROUP/PROJECT")
    except GeoregError:
        return "GROUP/PROJECT"


def _libpq(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" if re.search(r"[\s'\\]", value) else value


def _basic(text: str) -> str:
    """Text as a basic regular expression."""
    return re.sub(r"([.*\[\]^$\\])", r"\\\1", text)


# gitlab.rb


def drop(concern: str) -> str:
    """Lines that remove georeg's block of a concern, wherever it is in the file."""
    return f"sed -i '/^# >>> georeg: {concern} /,/^# <<< georeg: {concern}/d' {gitlab_rb.PATH}"


def put(concern: str, body: str, *, expand: bool = False) -> str:
    """Lines that put georeg's block of a concern at the end of the file, in place of one that is there.

    `expand`: the body holds $( ) that the shell is to fill in.
    """
    end = "EOF" if expand else "'EOF'"
    return f"{drop(concern)}\ncat >>{gitlab_rb.PATH} <<{end}\n{gitlab_rb.put('', concern, body)}EOF"


def change(
    site: Site, says: str, *lines: str, roles: Sequence[str] = ("registry",), nodes: Sequence[str] = ()
) -> Paste:
    """A change of gitlab.rb on every node of these roles, or on these nodes: a copy first, the lines, syntax,
    reconfigure.
    """
    nodes = nodes or [node.name for node in site.with_role(*roles)]
    owned = [node.name for node in site.nodes if node.name in nodes and site.is_manual(node)]
    if owned:
        says += f". ON {', '.join(owned)} ANOTHER TOOL OWNS {gitlab_rb.PATH}: make the same change with that tool"
    return Paste(nodes, "\n".join(["wait_for_georeg", "copy_gitlab_rb", *lines, RECONFIGURE]), says)


def everywhere(site: Site, says: str, *lines: str) -> Paste:
    """Lines for every registry node."""
    return Paste([node.name for node in site.registry_nodes], "\n".join(lines), says)


def first(site: Site, says: str, *lines: str) -> Paste:
    """Lines for the first registry node alone, where imports run and facts are kept."""
    return Paste([site.registry_nodes[0].name], "\n".join(lines), says)


ENABLED = f"grep -q '^database: .*\"enabled\":true' {REGISTRY_CONFIG}"
READ_ONLY = f'grep -q \'^storage: .*"readonly":{{"enabled":true}}\' {REGISTRY_CONFIG}'
ACCEPTS = '[ "$(upload)" = 202 ] && echo pushes are accepted'
REFUSES = '[ "$(upload)" = 405 ] && echo pushes are refused'

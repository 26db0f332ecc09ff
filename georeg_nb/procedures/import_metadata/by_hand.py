"""The import at a node's prompt, without georeg: what each of its steps stands for. Source: procedures 2.6, registry 0,
3.3, 6.5, 7.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from georeg_nb import gitlab_rb
from georeg_nb.errors import StepFailed
from georeg_nb.omnibus import REGISTRY_CONFIG, Omnibus
from georeg_nb.procedures import shell, state
from georeg_nb.runbook.by_hand import ByHand, Paste
from georeg_nb.site import Site

CLOSED = (
    "CLOSED after the first push that the database took: such an image is in the database alone. And closed a day "
    "after the switch: from then on online garbage collection removes manifests from the storage. Then only the "
    "backup leads back (storage and configuration of before; `enabled` false)"
)
TYPED = "THE PASSWORD IS TYPED"
TRUNCATE = "TRUNCATE TABLE tags RESTART IDENTITY CASCADE"


def read_only_block(package: Omnibus) -> str:
    """The settings that make a node's registry refuse pushes. Raises StepFailed where config.yml is no guide to
    them.
    """
    config = package.registry_config()
    if config is None:
        raise StepFailed("no config.yml was rendered for the registry", node=package.node.name)
    try:
        return gitlab_rb.read_only(config.storage)
    except ValueError as error:
        raise StepFailed(f"config.yml of the registry: {error}", node=package.node.name) from None


def _refuse(site: Site) -> list[Paste]:
    block = shell.put(state.READ_ONLY, read_only_block(site.omnibus))
    return [
        shell.change(site, "refuse pushes", block),
        shell.everywhere(site, "proof: this must say that pushes are refused", shell.REFUSES),
    ]


def _accept(site: Site) -> list[Paste]:
    return [
        shell.first(site, "put the lock files back as they lay", "put_lock_files_back"),
        shell.change(site, "let pushes in again", shell.drop(state.READ_ONLY)),
        shell.everywhere(site, "proof: this must say that pushes are accepted", shell.ACCEPTS),
        shell.first(site, "note it", f"{shell.ENABLED} || close_window 'given up'"),
    ]


def backup(site: Site) -> str:
    """Nothing of it is undone or finished at a prompt."""
    return "it changes nothing on the site: have the backup before the switch (enable-database), not after"


def put_database(site: Site, block: str) -> tuple[Paste, str]:
    """(what asks for the password, lines that put the block); `block` has TYPED for the password."""
    database = site.parameters.database
    address = f"{database.host}:{database.port}/{database.name}"
    ask = Paste(
        [node.name for node in site.registry_nodes],
        "ask password  # then type it",
        f"the password of {database.user} in {address}",
    )
    body = for_shell(block).replace(TYPED, '$(in_ruby "$password")')
    return ask, shell.put(state.DATABASE, body, expand=True)


def connect_database(site: Site, block: str) -> ByHand:
    """`block` is the one that the step writes, with TYPED for the password."""
    ask, put = put_database(site, block)
    database = site.parameters.database
    named = " && ".join(
        f"grep -q {shlex.quote(f'^database: .*{part}')} {REGISTRY_CONFIG}"
        for part in (f'"host":"{database.host}"', f'"port":{database.port}[,}}]', f'"dbname":"{database.name}"')
    )
    return ByHand(
        done=[Paste([node.name for node in site.registry_nodes], named)],
        finish=[ask, shell.change(site, "name the database, not enabled yet", put)],
        undo=[shell.change(site, "forget the database", shell.drop(state.DATABASE))],
        notes=["where the block is in gitlab.rb already, `gitlab-ctl reconfigure` alone finishes it"],
    )


def for_shell(text: str) -> str:
    """Text inside a here-document that the shell fills in, so that it stays as it is."""
    for character in "\\$`":
        text = text.replace(character, "\\" + character)
    return text


def migrate_schema(site: Site, command: Sequence[str]) -> ByHand:
    """The same command; it may be run again."""
    return ByHand(
        done=[shell.first(site, "", '[ "$(db -c "SELECT to_regclass(\'tags\') IS NOT NULL")" = t ]')],
        finish=[shell.first(site, "make the tables", "wait_for_georeg", " ".join(command))],
        no_undo="the tables are empty and unused: leave them",
    )


def let_pushes_in(site: Site) -> str:
    """The end of a window in which the import died."""
    return "by hand this is read-only, BACK: only where its import died and pushes shall not wait for another"


def clear_half_import(site: Site) -> ByHand:
    """Guarded as the step is."""
    return ByHand(
        done=[
            shell.first(site, "", "[ \"$(db -c 'SELECT count(*) FROM tags')\" = 0 ] || { same_tags && import_ended; }")
        ],
        finish=[_empty(site)],
        no_undo="what was removed lies in the storage still, and the next import brings it again",
        loses="nothing, as long as the database was never enabled: the lines look for that first",
    )


def _empty(site: Site) -> Paste:
    return shell.first(
        site,
        "empty the tags, if and only if nobody ever worked on this database. If it refuses, do NOT truncate by hand",
        "wait_for_georeg",
        "if [ \"$(db -c 'SELECT count(*) FROM tags')\" = 0 ]; then echo no tags",
        f"elif never_enabled; then db -c '{TRUNCATE}'; else echo REFUSED; false; fi",
    )


def read_only(site: Site) -> ByHand:
    """The window is opened, and closed again."""
    nodes = [node.name for node in site.registry_nodes]
    return ByHand(
        done=[Paste(nodes, f"{shell.READ_ONLY} || {shell.ENABLED}")],
        finish=[shell.first(site, "note when, and which lock files lie there", "keep_window"), *_refuse(site)],
        undo=_accept(site),
        notes=["pushes and deletions are refused from here to enable-database; pulls go on"],
    )


def snapshot(site: Site) -> ByHand:
    """The list that the import is compared with."""
    return ByHand(
        finish=[
            shell.first(
                site,
                "what is there now: the import is compared with it",
                "tags_before | wc -l; keep_snapshot",
            )
        ],
        no_undo="it changes nothing on the site",
    )


def _ended(site: Site, part: str, since: str = "", option: str = "") -> str:
    """A test: the last import command that did this step ended well."""
    query = (
        f"SELECT {part}_finished_at IS NOT NULL AND coalesce({part}_error, '') = '' FROM import_statistics WHERE {part}"
        f"{since} ORDER BY id DESC LIMIT 1"
    )
    return shell.ended(site, query, option)


def pre_import(site: Site, command: Sequence[str]) -> ByHand:
    """Step one may be run at any time before the tags are imported, and again."""
    log = f"{shell.FOLDER}/step-one.log"
    return ByHand(
        done=[shell.first(site, "", _ended(site, "pre_import"))],
        finish=[
            shell.first(
                site,
                "read all manifests while pushes go on; in tmux or screen, it may take hours",
                "wait_for_georeg",
                f"{_ended(site, 'pre_import')} || {' '.join(command)} >{log} 2>&1",
            )
        ],
        no_undo="no tag is in the database by it, and the registry does not look there: leave what was read",
    )


def import_blobs(site: Site, command: Sequence[str]) -> ByHand:
    """Step three, once the registry works on its database; may be run again."""
    since = " AND id >= (SELECT max(id) FROM import_statistics WHERE tag_import)"
    done = _ended(site, "blob_import", since, "--step-three")
    return ByHand(
        done=[shell.first(site, "", done)],
        finish=[
            shell.first(
                site,
                "make every blob known, while the registry works; in tmux or screen, it may take hours",
                "wait_for_georeg",
                f"{done} || {{ {shell.ENABLED} && {' '.join(command)} >{shell.FOLDER}/step-three.log 2>&1; }}",
            )
        ],
        no_undo="it only tells the database which blobs there are",
    )


def importing(site: Site, command: Sequence[str], job: str) -> ByHand:
    """An import goes on when georeg is gone: it is waited for, and never started beside another one."""
    log = f"{shell.FOLDER}/import.log"
    return ByHand(
        done=[shell.first(site, "", "same_tags && import_ended")],
        finish=[
            shell.first(
                site,
                "import, unless it is done; in tmux or screen, it may take hours. If there are tags already, first "
                "do clear-half-import",
                "wait_for_georeg",
                "{ same_tags >/dev/null && import_ended; } || {",
                f"    {shell.REFUSES} && [ \"$(db -c 'SELECT count(*) FROM tags')\" = 0 ] &&",
                f"        {' '.join(command)} >{log} 2>&1",
                "}",
            ),
            shell.first(
                site,
                f"proof: no difference is shown. The importer's own status proves nothing; causes are in {log}",
                "same_tags && import_ended && echo equal",
            ),
        ],
        undo=[
            shell.first(
                site,
                "end an import that is at work",
                f"for job in $(at_work | grep /{job}/); do",
                '    pkill -s "$(cut -d\' \' -f1 "$job/pid")"',
                "done",
                "wait_for_georeg",
            ),
            _empty(site),
        ],
        loses="nothing: the storage is as it was",
    )


def compare(site: Site) -> ByHand:
    """The same proof."""
    return ByHand(
        done=[shell.first(site, "", "same_tags && import_ended")],
        finish=[
            shell.first(site, "no difference may be shown", "same_tags && import_ended && echo equal && keep_proof")
        ],
        no_undo="it changes nothing on the site",
    )


def enable_database(site: Site) -> ByHand:
    """The switch, by turning `enabled` in georeg's own block; and the quick way back, while nothing was pushed."""
    nodes = [node.name for node in site.registry_nodes]

    def turn(old: bool, new: bool) -> str:
        key = "'enabled' => {}"
        fences = f"/^# >>> georeg: {state.DATABASE} /,/^# <<< georeg: {state.DATABASE}/"
        return (
            f'sed -i "{fences}s/{key.format(gitlab_rb.ruby(old))}/{key.format(gitlab_rb.ruby(new))}/" {gitlab_rb.PATH}'
        )

    def switch(says: str, line: str) -> list[Paste]:
        """Of several nodes none takes pushes before all of them work on the same metadata."""
        if len(nodes) == 1:
            return [shell.change(site, says, line, shell.drop(state.READ_ONLY))]
        return [
            shell.change(site, f"{says}. First on EVERY node, still refusing pushes", line),
            shell.change(site, "then, and only then: let pushes in", shell.drop(state.READ_ONLY)),
        ]

    return ByHand(
        done=[Paste(nodes, f"{shell.ENABLED} && ! {shell.READ_ONLY}")],
        finish=[
            shell.first(site, "note when", "keep_enabled"),
            *switch(
                "work on the database and let pushes in. Not before import and compare showed no difference",
                turn(False, True),
            ),
            shell.everywhere(
                site,
                "proof: on its database, and pushes are accepted",
                f'[ "$(on_database)" = true ] && echo on its database && {shell.ACCEPTS}',
            ),
            shell.first(
                site, "no lock file of the storage's may lie there", '[ ! -e "${locks:-/nowhere}/filesystem-in-use" ]'
            ),
            shell.first(site, "note it", "close_window migrated"),
        ],
        undo=[
            *_refuse(site),
            shell.first(
                site,
                "was anything pushed or deleted since? If a difference is shown, STOP: the way back is closed. Let "
                "pushes in again (read-only: back, without the lock files) and go on instead",
                "same_tags && echo nothing was pushed",
            ),
            shell.first(site, "put the lock files back as they lay", "put_lock_files_back"),
            *switch("legacy as before, and let pushes in", turn(True, False)),
            shell.everywhere(
                site,
                "proof: legacy, and pushes are accepted",
                f'[ "$(on_database)" = false ] && echo legacy && {shell.ACCEPTS}',
            ),
            shell.first(
                site,
                "note that this database was not worked on",
                "rm -f \"$kept/enabled.json\" && close_window 'given up'",
            ),
        ],
        loses="ON: the way back is closed with the first push. BACK: " + CLOSED,
    )


def writable(site: Site) -> ByHand:
    """The proof alone."""
    return ByHand(
        finish=[shell.everywhere(site, "this must say that pushes are accepted", shell.ACCEPTS)],
        no_undo="it changes nothing on the site",
    )


def recompute_checksums(site: Site, expression: str) -> ByHand | str:
    """For the repositories of tags that are agreed to be lost."""
    if site.role == "secondary":
        return "only the primary keeps checksums"
    paths = sorted({name.rpartition(":")[0] for name in state.accepted_losses(site)})
    if not paths:
        return "no tag is agreed to be lost"
    select = (
        "SELECT c.id FROM container_repositories c JOIN routes r ON r.source_type = 'Project' AND r.source_id = "
        "c.project_id WHERE r.path || CASE c.name WHEN '' THEN '' ELSE '/' || c.name END = :'path'"
    )
    lines = [
        f"for path in {shlex.join(paths)}; do",
        f'    number=$(printf \'%s\\n\' "{select};" | gitlab-psql -XAtq -v "path=$path")',
        f'    [ -z "$number" ] || gitlab-rails runner "{expression.format("$number")}" || break',
        "done",
    ]
    return ByHand(
        finish=[Paste([site.rails_node.name], "\n".join(lines), "let Geo compute their checksums anew")],
        no_undo="a checksum is computed, nothing else",
    )

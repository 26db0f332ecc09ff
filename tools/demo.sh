#!/bin/sh
# The main job, shown: the lab comes up, both registries are migrated headless, the table and the record are shown,
# and the lab goes away again, however this ends.
set -u
: "${BIN:=.venv/bin}" "${LAB:=.lab}"
keep=
# compiled modules are kept, or each of hundreds of starts compiles them anew
unset PYTHONDONTWRITEBYTECODE

cleanup() {
    trap - EXIT INT TERM HUP
    if [ -n "$keep" ]; then "$BIN/georeg" lab down --dir "$LAB"; else "$BIN/georeg" lab down --dir "$LAB" --purge; fi
}
trap cleanup EXIT
trap 'cleanup; exit 130' INT
trap 'cleanup; exit 143' TERM HUP

# A lab that is there already is started anew from its beginning, and stays there.
if [ -e "$LAB/lab.json" ]; then
    keep=yes
    "$BIN/georeg" lab up --dir "$LAB" && "$BIN/georeg" lab reset --dir "$LAB" || exit 1
else
    "$BIN/georeg" lab up --dir "$LAB" || exit 1
fi
"$BIN/georeg" run migrate-legacy -f parameters/lab/migrate-legacy.yml --approve all
status=$?
[ "$status" -eq 0 ] || { echo "The migration ended with exit status $status." >&2; exit "$status"; }

run=$(ls -1 records | sort | tail -n 1)
printf '\nThe images of both sites, repository by repository:\n\n'
"$BIN/georeg" records show "$run" --table same_images
printf '\nThe record: records/%s\n  its page  records/%s/migrate-legacy.html\n\n' "$run" "$run"

#!/bin/sh
# The main job, shown: the lab comes up, both registries are migrated headless, the table and the record are shown,
# and the lab goes away again, however this ends.
set -u
: "${BIN:=.venv/bin}" "${LAB:=.lab}"

cleanup() {
    trap - EXIT INT TERM HUP
    "$BIN/georeg" lab down --dir "$LAB" --purge
}
trap cleanup EXIT
trap 'cleanup; exit 130' INT
trap 'cleanup; exit 143' TERM HUP

"$BIN/georeg" lab up --dir "$LAB" || exit 1
"$BIN/georeg" run migrate-legacy -f parameters/lab/migrate-legacy.yml --approve all
status=$?
[ "$status" -eq 0 ] || { echo "The migration ended with exit status $status." >&2; exit "$status"; }

# One command on a node, over a channel that may break. Plain POSIX sh with coreutils and util-linux.
#
#   sh -c TEXT georeg-command BYTES CWD [VAR=VALUE ...] -- COMMAND ...
#
# Standard input: BYTES bytes for the command, then nothing until the caller goes away. A command whose input did not
# arrive whole is not started; one whose caller went away is ended with all that it started.
# Both streams begin with "georeg-begin": what comes before it is of the login's shell or of sudo. The last words on
# standard error are "georeg-status N". Where they are missing, the connection broke, whatever ssh's own exit status is:
# its 255 may be the command's as well.
echo georeg-begin
echo georeg-begin >&2
bytes=$1 cwd=$2
shift 2
while [ "$1" != -- ]; do
    export "${1?}"
    shift
done
shift
exec 3<&0 </dev/null
data=
if [ "$bytes" -gt 0 ]; then # in base64: a variable holds no NUL
    data=$(head -c "$bytes" <&3 | base64)
    [ "$(printf %s "$data" | base64 -d | wc -c)" -eq "$bytes" ] || exit 1
fi

if ! cd "$cwd" 2>/dev/null; then
    echo "cannot enter $cwd" >&2
    status=125
elif ! command -v "$1" >/dev/null; then
    case $1 in */*) [ -e "$1" ] ;; *) false ;; esac && status=126 || status=127
    if [ "$status" = 126 ]; then echo "$1: permission denied" >&2; else echo "$1: not found" >&2; fi
else
    if [ "$bytes" -gt 0 ]; then
        printf %s "$data" | base64 -d | setsid "$@" 3<&- &
    else
        setsid "$@" </dev/null 3<&- &
    fi
    pid=$!
    {
        while read -r _; do :; done
        kill -KILL "-$pid" "$pid"
    } <&3 >/dev/null 2>&1 &
    watcher=$!
    wait "$pid"
    status=$?
    kill "$watcher" 2>/dev/null
fi
printf '\ngeoreg-status %s\n' "$status" >&2

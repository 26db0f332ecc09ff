# Commands on a node, one after the other, over one channel that may break. Plain POSIX sh, coreutils and util-linux.
#
#   sh -c TEXT georeg-commands
#
# Both streams begin with "georeg-begin": what comes before it is of the login's shell or of sudo.
# A request on standard input: a line "TOKEN LENGTH BYTES"; LENGTH bytes of words, quoted for a shell: CWD [VAR=VALUE
# ...] -- COMMAND ...; BYTES bytes for the command's standard input; a line "TOKEN". One that did not arrive whole is
# not started. Until it is answered nothing but empty lines may be sent, and they mean nothing. A command whose caller
# went away, or did not wait, is ended with all that it started in its session.
# The answer is what the command writes; "georeg-end TOKEN STATUS" ends both streams. Where that is missing, the
# connection broke, whatever ssh's own exit status is. Nobody but the caller knows the token beforehand, so that no
# output can be taken for it.
start() { # CWD [VAR=VALUE ...] -- COMMAND ..., in a session of its own
    if ! cd "$1" 2>/dev/null; then
        echo "cannot enter $1" >&2
        exit 125
    fi
    shift
    while [ "$1" != -- ]; do
        export "${1?}"
        shift
    done
    shift
    if ! command -v "$1" >/dev/null; then
        case $1 in */*) [ -e "$1" ] ;; *) false ;; esac && echo "$1: permission denied" >&2 && exit 126
        echo "$1: not found" >&2
        exit 127
    fi
    exec setsid "$@"
}

unset TMOUT # bash's read would give up after that
exec 3<&0 </dev/null
echo georeg-begin
echo georeg-begin >&2
while read -r token length bytes <&3; do
    [ -n "$token" ] || continue
    words=$(head -c "$length" <&3)
    data=
    [ "$bytes" = 0 ] || data=$(head -c "$bytes" <&3 | base64) # a variable holds no NUL
    read -r whole <&3 && [ "$whole" = "$token" ] || exit 1
    eval "set -- $words"
    if [ "$bytes" = 0 ]; then
        start "$@" </dev/null 3<&- &
    else
        printf %s "$data" | base64 -d | start "$@" 3<&- &
    fi
    pid=$!
    {
        while read -r _; do :; done
        kill -KILL "-$pid" "$pid"
    } <&3 >/dev/null 2>&1 &
    watcher=$!
    wait "$pid" 2>/dev/null
    status=$?
    kill "$watcher"
    wait "$watcher" 2>/dev/null # before the next request comes: it must not read that
    kill -KILL "-$pid" 2>/dev/null # what it left behind must not write into the next answer
    printf '\ngeoreg-end %s %s\n' "$token" "$status"
    printf '\ngeoreg-end %s %s\n' "$token" "$status" >&2
done

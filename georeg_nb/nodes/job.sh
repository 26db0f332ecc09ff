# Detached jobs on a node, in plain POSIX sh: the same text runs on this machine and through a remote shell.
#
#   sh -c TEXT georeg-job launch TEXT UNIT FOLDER NAME GENERATION BYTES CWD DESCRIPTION [VAR=VALUE ...] -- COMMAND ...
#   sh -c TEXT georeg-job look FOLDER [NAME]
#
# FOLDER/NAME/GENERATION/ holds one start: description (JSON), boot_id, started, pid ("PID START-TIME" of the process
# that waits for the command), output (both streams), stderr, exit (written by rename when the command has ended),
# forgotten (its result has been seen; the number is never used again).
#
# `mkdir` of the generation is what makes a start unique: of two starters that saw the same generation finished, one
# makes the next folder and the other finds it taken. launch answers "started", "taken" or "incomplete" (the command's
# standard input did not arrive in full, so nothing was started).
#
# UNIT holds options for systemd-run, which is used where systemd runs and we are root: a job then belongs to no login
# session, whose end could end it. Everywhere else, and with an empty UNIT, setsid has to do.
umask 077

start_time() { # of process $1; nothing when it is gone or a zombie
    line=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    line=${line##*) }
    # shellcheck disable=SC2086
    set -- $line
    [ "$1" = Z ] || [ "$1" = X ] || { shift 19; echo "$1"; }
}

session_lives() { # any process of session $1, although its leader is gone
    for file in /proc/[0-9]*/stat; do
        line=$(cat "$file" 2>/dev/null) || continue
        line=${line##*) }
        # shellcheck disable=SC2086
        set -- "$1" $line
        [ "$5" = "$1" ] && [ "$2" != Z ] && [ "$2" != X ] && return 0
    done
    return 1
}

run() { # in a session of its own; its output goes to the starter until the answer is given
    folder=$1 name=$2 generation=$3 bytes=$4 cwd=$5 description=$6
    shift 6
    trap '' HUP
    data=$(cat && printf x)
    data=${data%x}
    if [ "$(printf %s "$data" | wc -c)" -ne "$bytes" ]; then
        echo incomplete
        return
    fi
    mkdir -p "$folder/$name" || return
    here=$folder/$name/$generation
    if ! mkdir "$here" 2>/dev/null; then
        if [ -d "$here" ]; then echo taken; else echo "cannot make $here" >&2; fi
        return
    fi
    for other in "$folder/$name"/*; do # a starter that saw an older state than the one on disk
        if [ "${other##*/}" -gt "$generation" ]; then
            rmdir "$here"
            echo taken
            return
        fi
    done
    printf '%s\n' "$description" >"$here/description"
    cat /proc/sys/kernel/random/boot_id >"$here/boot_id"
    date +%s >"$here/started"
    : >"$here/output"
    : >"$here/stderr"
    mkfifo "$here/errors"
    echo "$$ $(start_time $$)" >"$here/pid.new"
    mv "$here/pid.new" "$here/pid"
    for other in "$folder/$name"/*; do # what came before has ended: that is why this one may start
        [ "$other" = "$here" ] || rm -rf "$other"
    done
    echo started
    exec >/dev/null 2>&1 </dev/null
    while [ "$1" != -- ]; do
        export "${1?}"
        shift
    done
    shift
    umask 022 # the command makes files as it would for a login of root
    tee -a "$here/output" <"$here/errors" >"$here/stderr" &
    tee=$!
    exec 4>"$here/errors"
    if ! cd "$cwd" 2>&4; then
        status=125
    elif [ "$bytes" -gt 0 ]; then
        printf %s "$data" | "$@" >>"$here/output" 2>&4 4>&- &
        wait $!
        status=$?
    else
        "$@" >>"$here/output" 2>&4 4>&- </dev/null &
        wait $!
        status=$?
    fi
    exec 4>&-
    left=20 # a daemon that the command leaves behind may hold the pipe: do not wait for it for ever
    while [ -n "$(start_time "$tee")" ] && [ "$left" -gt 0 ]; do
        sleep 0.1
        left=$((left - 1))
    done
    rm -f "$here/errors"
    echo "$status" >"$here/exit.new"
    mv "$here/exit.new" "$here/exit"
}

look_at() { # one line: GENERATION STATE STATUS STARTED PID
    here=$1
    generation=${here##*/}
    started=$(cat "$here/started" 2>/dev/null) || started=-
    pid=- began=-
    if [ -f "$here/pid" ]; then read -r pid began <"$here/pid"; fi
    if [ -f "$here/forgotten" ]; then
        state=forgotten
    elif [ -f "$here/exit" ]; then
        state=exited
    elif [ -f "$here/boot_id" ] && [ "$(cat "$here/boot_id")" != "$(cat /proc/sys/kernel/random/boot_id)" ]; then
        state=lost
    elif [ "$pid" = - ]; then # being started, or its starter died in that instant
        state=lost
        [ -z "$(find "$here" -prune -mmin -1)" ] || state=running
    elif [ "$(start_time "$pid")" = "$began" ] || session_lives "$pid"; then
        state=running
    elif [ -f "$here/exit" ]; then # ended while we looked
        state=exited
    else
        state=lost
    fi
    status=-
    [ "$state" != exited ] || status=$(cat "$here/exit")
    echo "$generation $state ${status:--} ${started:--} $pid"
}

look() {
    folder=$1
    for job in "$folder"/${2:-*}; do
        [ -d "$job" ] || continue
        newest=
        for generation in "$job"/*; do
            [ -d "$generation" ] || continue
            [ -n "$newest" ] && [ "${newest##*/}" -gt "${generation##*/}" ] || newest=$generation
        done
        [ -z "$newest" ] || echo "${job##*/} $(look_at "$newest")"
    done
}

quoted() { # its arguments as words for a shell, each continued on the next line
    for word in "$@"; do printf '%s\n' "$word" | sed "s/'/'\\\\''/g; 1s/^/'/; \$s/\$/' \\\\/"; done
    echo
}

by_systemd() { # OPTIONS TEXT FOLDER NAME ...; through pipes, since systemd expands $ in arguments, and files keep data
    options=$1
    shift
    mkdir -p "$2" && pipes=$(mktemp -d "$2/.start-XXXXXXXX") || return
    trap 'rm -rf "$pipes"' EXIT
    mkfifo "$pipes/in" "$pipes/out" || return
    text=$1
    shift
    {
        echo "exec <'$pipes/in' >'$pipes/out' 2>&1"
        echo 'exec sh -c \'
        quoted "$text" georeg-job run "$@"
    } >"$pipes/job"
    # shellcheck disable=SC2086
    if systemd-run $options --setenv="HOME=${HOME:-/root}" --setenv="PATH=$PATH" /bin/sh "$pipes/job" >&2; then
        timeout 30 cat <&3 >"$pipes/in" &
        timeout 30 cat "$pipes/out"
    elif systemctl --quiet is-active "georeg-$2.service"; then
        echo taken
    fi
}

case $1 in
launch)
    text=$2 unit=$3
    shift 3
    exec 3<&0
    if [ -n "$unit" ] && [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ] && command -v systemd-run >/dev/null; then
        by_systemd "$unit" "$text" "$@"
        exit
    fi
    { setsid sh -c "$text" georeg-job run "$@" <&3 3<&- & } | cat # until it has answered
    ;;
run)
    shift
    run "$@"
    ;;
look)
    shift
    look "$@"
    ;;
esac

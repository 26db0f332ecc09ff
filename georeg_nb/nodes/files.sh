# Files of a node, in plain POSIX sh with GNU coreutils: what LocalTransport does, through a remote shell.
#
#   sh -c TEXT georeg-file read PATH OFFSET | exists PATH | list PATH | remove PATH | find PROGRAM PATH ...
#   sh -c TEXT georeg-file write PATH MODE OWNER EXCLUSIVE ROOTED <DATA       OWNER: - for the file's present one
#
# Answers on standard output; what went wrong on standard error, in the C locale, so that it can be told apart.
# Status 3: the file is there already and was left alone; 4: the owner could not be set.
umask 077
export LC_ALL=C
verb=$1 path=$2

case $verb in
read)
    [ ! -d "$path" ] || { echo "$path: Is a directory" >&2 && exit 1; }
    exec tail -c "+$(($3 + 1))" -- "$path"
    ;;
exists) if [ -e "$path" ] || [ -L "$path" ]; then echo yes; else echo no; fi ;;
find) # the first PATH that is a program
    shift 2
    for place in "$@"; do
        [ ! -f "$place" ] || [ ! -x "$place" ] || { printf '%s' "$place" && break; }
    done
    ;;
list)
    ls -A -- "$path/" >/dev/null && cd -- "$path" || exit 1
    for name in * .[!.]* ..?*; do
        if [ -e "$name" ] || [ -L "$name" ]; then printf '%s\0' "$name"; fi
    done
    ;;
remove)
    rm -f -- "$path" || exit 1
    [ ! -d "${path%/*}/" ] || sync -- "${path%/*}/"
    ;;
write)
    mode=$3 owner=$4 exclusive=$5 rooted=$6
    [ ! -L "$path" ] || path=$(readlink -m -- "$path")
    folder=${path%/*}/ name=${path##*/}
    mkdir -p -- "$folder" || exit 1
    for left in "$folder.$name.georeg-"*; do # of a writer that was killed, perhaps with secrets in it
        [ -z "$(find "$left" -prune -mmin +10 2>/dev/null)" ] || rm -f -- "$left"
    done
    temporary=$(mktemp -- "$folder.$name.georeg-XXXXXXXX") || exit 1
    trap 'rm -f -- "$temporary"' EXIT
    trap 'exit 1' HUP INT TERM
    cat >"$temporary" || exit 1
    if [ "$owner" != - ] || [ ! -e "$path" ]; then
        chmod "$mode" "$temporary" || exit 1
    else
        chmod --reference="$path" -- "$temporary" || exit 1
    fi
    if [ "$owner" != - ]; then
        chown -- "$owner" "$temporary" || [ "$rooted" = 1 ] || exit 4
    elif [ -e "$path" ] && [ "$(stat -Lc %u:%g -- "$path")" != "$(id -u):$(id -g)" ]; then
        chown --reference="$path" -- "$temporary" || [ "$rooted" = 1 ] || exit 4
    fi
    sync -- "$temporary" || exit 1
    if [ "$exclusive" = 1 ]; then
        if ! ln -T -- "$temporary" "$path"; then
            if [ -e "$path" ] || [ -L "$path" ]; then exit 3; fi
            exit 1
        fi
    else
        mv -fT -- "$temporary" "$path" || exit 1
    fi
    sync -- "$folder"
    ;;
esac

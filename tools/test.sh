#!/bin/sh
# All tests. Arguments go to pytest; its last lines are ours. Nothing stays behind, however this ends.
set -u
: "${BIN:=.venv/bin}" "${JOBS:=2}"
# compiled modules are kept, or each of thousands of starts compiles them anew
unset PYTHONDONTWRITEBYTECODE

# JupyterLab in a real browser needs one. As root on Debian or Ubuntu it is installed; elsewhere those tests skip and say why.
if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "Installing chromium for the browser tests"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 ||
        echo "chromium could not be installed: the browser tests will be skipped"
fi

# Nodes over SSH need a server. It is not started as a service: the tests run their own, on ports of their own.
if ! { command -v sudo && PATH="$PATH:/usr/sbin" command -v sshd; } >/dev/null && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "Installing openssh-server and sudo for the SSH tests"
    policy=/usr/sbin/policy-rc.d ours= # what the package asks before it starts a service
    [ -e $policy ] || { ours=$policy && printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy; }
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openssh-server openssh-client sudo; } >/dev/null 2>&1 ||
        echo "openssh-server and sudo could not be installed: tests over SSH will be skipped"
    rm -f $ours
fi

folder=$(mktemp -d "${TMPDIR:-/tmp}/georeg-test-XXXXXX")
trap '"$BIN/python" tools/sweep.py "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
"$BIN/python" tools/sweep.py --begin "$folder"
"$BIN/python" -m pytest ${MARKS:+-m "$MARKS"} -n "$JOBS" --dist loadfile --no-loadscope-reorder --basetemp="$folder/t" "$@"

#!/usr/bin/env bash
# What a worker of a TPU slice does for tpu_vm.sh: install, start, status, stop, kill, log.
#
# One run at a time. It outlives the connection that started it, and leaves in ~/vit-pose-jax-run:
#   log   what it printed, of all its starts    pid       its process group
#   exit  its exit code                         command   its words
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
environment=$repository/.venv
run=$HOME/vit-pose-jax-run

install() { # PYTHON_VERSION: an environment with everything; a second time costs nothing
    # The images of TPU VMs have Python 3.10; uv brings another without administrator's rights.
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --allow-existing --python "$1" "$environment"
    python3 -m uv pip install --quiet --python "$environment" --editable "${repository}[tpu]"
    touch "$environment/installed"
}

is_alive() {
    [ -f "$run/pid" ] && kill -0 -- "-$(cat "$run/pid")" 2>/dev/null
}

start() { # WORD...: the command of the run
    if is_alive; then
        echo "Error: a run is under way on this worker; stop it first." >&2
        exit 2
    fi
    mkdir -p "$run"
    rm -f "$run/exit"
    printf '%s\0' "$@" >"$run/command"
    cd "$repository"
    # A session of its own, which a closed connection does not end. The signal of `stop` reaches the
    # whole group: the shell waits for the run, which saves, and then notes its exit code.
    # shellcheck disable=SC2016 # its words are expanded by the inner shell
    PATH=$environment/bin:$PATH setsid bash -c '
        trap : TERM HUP
        run=$1
        shift
        code=0
        "$@" >>"$run/log" 2>&1 || code=$?
        echo "$code" >"$run/exit.new"
        mv "$run/exit.new" "$run/exit"
    ' run "$run" "$@" </dev/null >/dev/null 2>&1 &
    echo "$!" >"$run/pid"
}

is_command() { # WORD...: whether the last run was of this command; no words: of any
    [ $# -eq 0 ] || [ ! -f "$run/command" ] || printf '%s\0' "$@" | cmp -s - "$run/command"
}

status() { # [WORD...]: one line about this command: bare, idle, running, busy, exited CODE, or lost
    if [ ! -f "$environment/installed" ]; then
        echo "worker: bare"
    elif is_alive; then
        if is_command "$@"; then echo "worker: running"; else echo "worker: busy"; fi
    elif ! is_command "$@"; then
        echo "worker: idle"
    elif [ -f "$run/exit" ]; then
        echo "worker: exited $(cat "$run/exit")"
    elif [ -f "$run/pid" ]; then
        echo "worker: lost" # the machine was started again, or somebody ended the shell
    else
        echo "worker: idle"
    fi
}

signal() { # NAME
    if is_alive; then
        kill "-$1" -- "-$(cat "$run/pid")"
    fi
}

action=${1:-}
shift || true
case $action in
    install | start | status) "$action" "$@" ;;
    stop) signal TERM ;;
    kill) signal KILL ;;
    log) mkdir -p "$run" && touch "$run/log" && exec tail -n "${1:-20}" ${2:+"$2"} "$run/log" ;;
    *)
        echo "Error: '$action' is no action of worker.sh." >&2
        exit 2
        ;;
esac

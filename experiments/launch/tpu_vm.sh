#!/usr/bin/env bash
# Runs a training command on a Cloud TPU slice, from a laptop, until it is done.
#
#   tpu_vm.sh run     FLAGS -- COMMAND   all of it: create, install, start, resume; delete when done
#   tpu_vm.sh create  FLAGS              queue for a slice and wait until it is there
#   tpu_vm.sh install FLAGS              send this commit to all workers and install it
#   tpu_vm.sh start   FLAGS -- COMMAND   start the command on all workers
#   tpu_vm.sh status  FLAGS              what each worker does
#   tpu_vm.sh logs    FLAGS              follow the log of one worker (--worker=0)
#   tpu_vm.sh resume  FLAGS -- COMMAND   keep it going: start again what was stopped or preempted
#   tpu_vm.sh stop    FLAGS              ask the run to save and end
#   tpu_vm.sh fetch   FLAGS --workdir=gs://BUCKET/RUN --to=DIRECTORY   copy the results
#   tpu_vm.sh delete  FLAGS              give the slice back
#
# Flags, or the environment variables of Google's documentation:
#   --name=NAME         TPU_NAME          of the slice
#   --zone=ZONE         ZONE
#   --project=PROJECT   PROJECT_ID        gcloud's own where it is not given
#   --type=TYPE         ACCELERATOR_TYPE  v2-*, v3-*, v4-*, v5litepod-*, v5p-* or v6e-*
#   --runtime=VERSION   RUNTIME_VERSION   of the TPU's software; that of the type where not given
#   --spot                                cheaper, and may be taken away
#   --create_flag=FLAG                    passed on to gcloud's create; may be repeated
#   --python=VERSION                      for the workers (3.12)
#   --max_restarts=N                      after which `run` and `resume` give up (100)
#   --poll_s=SECONDS                      between two looks at the slice (60)
#   --dry_run                             print the commands and do nothing
#
# Exit codes: 0 done; 2 something to mend, said in one sentence; otherwise that of the run.
set -euo pipefail

readonly PREEMPTED=75 # train_jax.hosts.PREEMPTED_EXIT_CODE
# Looks at a slice that cannot be reached, or at a run that ended on some of its workers only, before
# something is done about it.
readonly PATIENCE=10
readonly DIRECTORY=vit-pose-jax # on the workers, in the home directory

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "tpu_vm.sh: $*" >&2; }

fail() { # CODE SENTENCE
    echo "Error: $2" >&2
    exit "$1"
}

usage() { sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; }

# ---------------------------------------------------------------------------------------- the words

action=${1:-}
name=${TPU_NAME:-}
zone=${ZONE:-}
project=${PROJECT_ID:-}
type=${ACCELERATOR_TYPE:-}
runtime=${RUNTIME_VERSION:-}
python=3.12
max_restarts=100
poll_s=60
worker=0
workdir=
to=
spot=
dry_run=
create_flags=()
command_words=()

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
            --name=*) name=${1#*=} ;;
            --zone=*) zone=${1#*=} ;;
            --project=*) project=${1#*=} ;;
            --type=*) type=${1#*=} ;;
            --runtime=*) runtime=${1#*=} ;;
            --python=*) python=${1#*=} ;;
            --max_restarts=*) max_restarts=${1#*=} ;;
            --poll_s=*) poll_s=${1#*=} ;;
            --worker=*) worker=${1#*=} ;;
            --workdir=*) workdir=${1#*=} ;;
            --to=*) to=${1#*=} ;;
            --create_flag=*) create_flags+=("${1#*=}") ;;
            --spot) spot=1 ;;
            --dry_run) dry_run=1 ;;
            --)
                shift
                command_words=("$@")
                return
                ;;
            *) fail 2 "'$1' is no flag of tpu_vm.sh $action; flags are written --name=value, and the command of the run follows after --." ;;
        esac
        shift
    done
}

check() {
    [ -n "$name" ] || fail 2 "--name is missing; name the slice, e.g. --name=vit-h14."
    [[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
        fail 2 "--name=$name is no name for a slice; use small letters, digits and hyphens, a letter first."
    [ -n "$zone" ] || fail 2 "--zone is missing; give the zone of the slice, e.g. --zone=europe-west4-a."
    [[ $max_restarts =~ ^[0-9]+$ ]] || fail 2 "--max_restarts=$max_restarts is no number."
    [[ $poll_s =~ ^[0-9]+$ ]] || fail 2 "--poll_s=$poll_s is no number of seconds."
    case $action in create | run | resume) check_type ;; esac
    case $action in start | run | resume) check_command ;; esac
    if [ "$action" = fetch ]; then
        [[ $workdir == gs://* ]] || fail 2 "--workdir is missing; give that of the run, e.g. --workdir=gs://bucket/run."
        [ -n "$to" ] || fail 2 "--to is missing; name a directory for the results, e.g. --to=results."
    fi
    [ -n "$dry_run" ] || command -v gcloud >/dev/null ||
        fail 2 "gcloud is not installed; install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)."
}

# https://cloud.google.com/tpu/docs/runtimes
check_type() {
    local default
    case $type in
        v2-[1-9]* | v3-[1-9]* | v4-[1-9]*) default=tpu-ubuntu2204-base ;;
        v5litepod-[1-9]*) default=v2-alpha-tpuv5-lite ;;
        v5p-[1-9]*) default=v2-alpha-tpuv5 ;;
        v6e-[1-9]*) default=v2-alpha-tpuv6e ;;
        "") fail 2 "--type is missing; give the type of the slice, e.g. --type=v3-32." ;;
        tpu7x* | v7*) fail 2 "--type=$type: the Cloud TPU API ends at v6e; run v7 on GKE (see experiments/launch/README.md)." ;;
        v5e*) fail 2 "--type=$type is called v5litepod-${type#*-} by the Cloud TPU API." ;;
        *) fail 2 "--type=$type is unknown; types look like v2-8, v3-32, v4-8, v5litepod-16, v5p-8 or v6e-8." ;;
    esac
    runtime=${runtime:-$default}
}

check_command() {
    local word
    [ ${#command_words[@]} -gt 0 ] ||
        fail 2 "The command of the run is missing; give it after --, e.g. -- python -m vit_jax.train --config=... --workdir=gs://bucket/run."
    for word in "${command_words[@]}"; do
        case $word in --workdir=gs://*) return ;; esac
    done
    fail 2 "The command has no --workdir=gs://...; a slice keeps nothing when it is deleted or preempted, so let the run write into a bucket."
}

# ------------------------------------------------------------------------------------- the commands

quoted() { # WORD...: as a shell reads it
    local word words='' quote="'\\''"
    for word in "$@"; do
        if [[ ! $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
            word="'${word//\'/$quote}'"
        fi
        words+=" $word"
    done
    echo "${words# }"
}

run() { # WORD...: runs a command, or prints it
    if [ -n "$dry_run" ]; then
        quoted "$@"
    else
        "$@"
    fi
}

where() { # the flags of every command about the slice, in $place
    place=(--quiet "--zone=$zone")
    if [ -n "$project" ]; then
        place+=("--project=$project")
    fi
}

on_workers() { # WORKER COMMAND: through ssh; all of them at the same time if WORKER is all
    run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" "--worker=$1" "--command=$2"
}

worker_sh() { # WORD...: a call of worker.sh as the workers' shell reads it
    echo "bash $DIRECTORY/experiments/launch/worker.sh $(quoted "$@")"
}

create() {
    local flags=("--node-id=$name" "${place[@]}" "--accelerator-type=$type" "--runtime-version=$runtime")
    if [ -n "$spot" ]; then
        flags+=(--spot)
    fi
    run gcloud compute tpus queued-resources create "$name" "${flags[@]}" ${create_flags[@]+"${create_flags[@]}"}
}

describe() {
    run gcloud compute tpus queued-resources describe "$name" "${place[@]}" "--format=value(state.state)"
}

delete() {
    run gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force
}

install() {
    local archive
    archive=${TMPDIR:-/tmp}/$DIRECTORY-$name.tar.gz
    if [ -z "$dry_run" ] && [ -n "$(git -C "$here" status --porcelain)" ]; then
        say "changes that are not committed are not sent to the workers."
    fi
    run git -C "$(cd "$here/../.." && pwd)" archive --format=tar.gz "--output=$archive" HEAD &&
        run gcloud compute tpus tpu-vm scp "$archive" "$name:$DIRECTORY.tar.gz" "${place[@]}" --worker=all &&
        on_workers all "mkdir -p $DIRECTORY && tar -xzf $DIRECTORY.tar.gz -C $DIRECTORY && $(worker_sh install "$python")"
}

start() { on_workers all "$(worker_sh start "${command_words[@]}")"; }

status() {
    on_workers all "test -d $DIRECTORY || { echo 'worker: bare'; exit 0; }; $(worker_sh status ${command_words[@]+"${command_words[@]}"})"
}

logs() { on_workers "$worker" "$(worker_sh log 100 -F)"; }

fetch() {
    run mkdir -p "$to"
    run gcloud storage rsync --quiet --recursive ${project:+"--project=$project"} "$workdir" "$to"
}

# --------------------------------------------------------------------------------- keeping it going

state() { # of the queued resource, in $slice; ABSENT, or UNKNOWN if it cannot be learned
    local errors before=${slice:-}
    errors=$(mktemp)
    if slice=$(describe 2>"$errors"); then
        :
    elif grep -q NOT_FOUND "$errors"; then
        slice=ABSENT
    else
        slice=UNKNOWN
        cat "$errors" >&2
    fi
    rm -f "$errors"
    [ "$slice" = "$before" ] || say "the slice $name is $slice."
}

bear() { # counts what went wrong in a row
    trouble=$((trouble + 1))
    [ "$trouble" -lt "$PATIENCE" ] ||
        fail 1 "The slice $name cannot be used; see what gcloud says above."
}

wait_until_there() {
    trouble=0
    while :; do
        state
        case $slice in
            ACTIVE) return ;;
            FAILED | SUSPENDED) fail 1 "The slice $name is $slice: see gcloud compute tpus queued-resources describe $name --zone=$zone, and delete it." ;;
            UNKNOWN | ABSENT) bear ;;
            *) trouble=0 ;;
        esac
        sleep "$poll_s"
    done
}

count_restart() { # REASON
    restarts=$((restarts + 1))
    [ "$restarts" -le "$max_restarts" ] ||
        fail 1 "The run was started again $max_restarts times, and now $1; see its log, and raise --max_restarts if all is well."
    say "$1: restart $restarts of at most $max_restarts."
}

# What the workers say, all together, in $verdict: bare, busy, idle, running, done, again, mixed,
# unknown, or "failed CODE". An error that somebody has to mend counts more than a worker that lost the others.
judge() {
    local lines codes code
    verdict=unknown
    lines=$(status) || return 0
    lines=$(grep -o 'worker: .*' <<<"$lines" || true)
    codes=$(sed -n 's/^worker: exited //p' <<<"$lines")
    if grep -q 'worker: bare' <<<"$lines"; then
        verdict=bare
    elif grep -q 'worker: busy' <<<"$lines"; then
        verdict=busy
    elif grep -q 'worker: running' <<<"$lines"; then
        verdict=running
        if grep -qv 'worker: running' <<<"$lines"; then
            verdict=mixed
        fi
    elif grep -q 'worker: lost' <<<"$lines"; then
        verdict=again
    elif grep -q 'worker: idle' <<<"$lines"; then
        verdict=idle
    elif [ -n "$codes" ]; then
        verdict="done"
        for code in $codes; do
            case $code in
                0) ;;
                # Stopped as asked or without the others; aborted by JAX, which misses process 0;
                # killed; told to end before it could listen.
                "$PREEMPTED" | 134 | 137 | 143) [ "$verdict" != "done" ] || verdict=again ;;
                2) verdict="failed 2" ;;
                *) [ "$verdict" = "failed 2" ] || verdict="failed $code" ;;
            esac
        done
    fi
}

resume() { # whatever the slice is and does now: does what is missing until the run is done
    local mixed=0
    restarts=0
    trouble=0
    while :; do
        state
        case $slice in
            ACTIVE)
                judge
                case $verdict in
                    done)
                        say "the run is done."
                        return
                        ;;
                    running) trouble=0 ;;
                    failed*) give_up "${verdict#failed }" ;;
                    busy) fail 2 "The slice $name runs another command; stop it first, or create a slice of another name." ;;
                    bare) { install && start; } || bear ;;
                    idle) start || bear ;;
                    again)
                        count_restart "the run was stopped or lost a worker"
                        start || bear
                        ;;
                    mixed) mixed=$((mixed + 1)) ;;
                    unknown) bear ;;
                esac
                if [ "$verdict" != mixed ]; then
                    mixed=0
                elif [ "$mixed" -ge "$PATIENCE" ]; then
                    say "the run has ended on some workers; ending it on the others."
                    on_workers all "$(worker_sh kill)" || bear
                    mixed=0
                fi
                ;;
            FAILED | SUSPENDED)
                count_restart "the slice $name is $slice"
                { delete && create; } || bear
                ;;
            ABSENT) create || { [ "$restarts" -gt 0 ] || exit 1; bear; } ;;
            UNKNOWN) bear ;;
        esac
        sleep "$poll_s"
    done
}

give_up() { # CODE
    on_workers 0 "$(worker_sh log 20)" >&2 || true
    fail "$1" "The run ended with exit code $1 (above, the end of worker 0's log); the slice $name is kept: mend the run and resume it, or delete the slice."
}

print_resume() { # what resume does, in order
    echo "# until the run is done, every $poll_s s:"
    describe
    status
    echo "# after exit code $PREEMPTED, or without one of the workers:"
    start
    echo "# after a preemption of the slice (SUSPENDED or FAILED):"
    delete
    create
    describe
    install
    start
}

# ----------------------------------------------------------------------------------------------------

case $action in
    create | install | start | status | logs | resume | stop | fetch | delete | run) ;;
    "" | -h | --help | help)
        usage
        exit 0
        ;;
    *) fail 2 "'$action' is no action of tpu_vm.sh; it has create, install, start, status, logs, resume, stop, fetch, delete and run." ;;
esac
shift
parse "$@"
check
where

case $action in
    create)
        create
        if [ -n "$dry_run" ]; then
            describe
        else
            wait_until_there
        fi
        ;;
    stop) on_workers all "$(worker_sh stop)" ;;
    resume | run)
        if [ -n "$dry_run" ]; then
            if [ "$action" = run ]; then
                create
                describe
                install
                start
            fi
            print_resume
        else
            resume
        fi
        if [ "$action" = run ]; then
            if [ -n "$dry_run" ]; then
                echo "# when it is done:"
            fi
            delete
        fi
        ;;
    *) "$action" ;;
esac

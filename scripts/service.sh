#!/bin/sh
# One pipeline as a background process of this machine, for trying things out; deploy/ has systemd and containers.
#
#   scripts/service.sh start|stop|restart|logs BINARY CONFIG
set -eu

action=$1 binary=$2 config=$3
root=$(cd "$(dirname "$0")/.." && pwd)
name=$(basename "$config" .yml)
home="${HEADWATER_RUN_DIR:-$root/.run}"
pid_file="$home/$name.pid" log="$home/$name.log"

say() { echo "$name: $*" >&2; }

# The process id, if it is still our headwater: numbers are used again.
pid() {
    [ -f "$pid_file" ] || return 1
    number=$(cat "$pid_file")
    grep -qz headwater "/proc/$number/cmdline" 2>/dev/null && echo "$number"
}

start() {
    if number=$(pid); then
        say "runs already (process $number); make restart ends it first"
        exit 1
    fi
    "$binary" validate -c "$config" >&2
    mkdir -p "$home"
    setsid "$binary" run -c "$config" </dev/null >>"$log" 2>&1 &
    echo $! >"$pid_file"
    say "started (process $!), log in $log; make health says whether it works"
}

stop() {
    if ! number=$(pid); then
        say "does not run"
        return
    fi
    kill -TERM "$number"
    # A drain has a limit of its own (runtime.shutdown_timeout_ms), after which the process leaves.
    while kill -0 "$number" 2>/dev/null; do sleep 0.2; done
    rm -f "$pid_file"
    say "stopped: what it held is committed"
}

case "$action" in
    start) start ;;
    stop) stop ;;
    restart) stop && start ;;
    logs) exec tail -n 100 -F "$log" ;;
    *) echo "scripts/service.sh start|stop|restart|logs BINARY CONFIG" >&2; exit 2 ;;
esac

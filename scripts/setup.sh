#!/bin/sh
# Makes a Debian machine able to build headwater and to run its demo, tests and benchmark: installs what is
# missing and says so. Says nothing, and takes no time, where nothing is missing. With --tests also what only the
# tests need and is large: a browser for the page.
set -eu

scripts=$(cd "$(dirname "$0")" && pwd)

say() { echo "setup: $*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# The server programs are not on Debian's PATH.
have_postgres() { have initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; }
have_kafka() {
    [ -n "${HEADWATER_KAFKA_LIBS:-}" ] || [ -d "${XDG_CACHE_HOME:-$HOME/.cache}/headwater/kafka-4.1.0/libs" ]
}
# The first of several packages that this release of Debian has.
first_known() {
    for name; do
        if apt-cache show "$name" >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    echo "$1"
}

missing=""
need() { missing="$missing $1"; }
have cc && have c++ && have make || need build-essential
have pkg-config || need pkg-config
{ have pkg-config && pkg-config --exists openssl; } || [ -e /usr/include/openssl/ssl.h ] || need libssl-dev
have_postgres || need postgresql-15
# A pooler before a server, which the tests must find refused.
have pgbouncer || [ -x /usr/sbin/pgbouncer ] || need pgbouncer
# A PostgreSQL in another time, for the test of the clock change.
ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || need faketime
# The unit's exposure is scored, man pages are rendered, the package is built with its dependencies worked out.
have systemd-analyze || need systemd
# With it systemd runs the package on a machine of its own, in a test.
have dbus-daemon || need dbus
have man || need man-db
have dpkg-shlibdeps || need dpkg-dev
if [ "${1:-}" = --tests ]; then
    have chromium || have chromium-browser || have google-chrome || need chromium
fi
python3 -c "import ensurepip, venv" >/dev/null 2>&1 || need python3-venv
have java || need openjdk-17-jre-headless
have_kafka || have mvn || need maven

if [ -n "$missing" ]; then
    if ! have apt-get; then
        say "missing, and there is no apt-get to install it with:$missing"
        say "install these by hand, under the names that this system has for them"
        exit 1
    fi
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        if have sudo && sudo -n true 2>/dev/null; then
            as_root="sudo"
        else
            say "missing:$missing"
            say "to install it: sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing"
            exit 1
        fi
    fi
    say "installing$missing (apt-get)"
    log=$(mktemp)
    # Debian's package would start a cluster of its own on port 5432; ours are private ones on free ports.
    quiet_cluster=/etc/postgresql-common/createcluster.d/headwater-setup.conf
    trap 'rm -f "$log"; $as_root rm -f "$quiet_cluster"' EXIT
    trap 'exit 130' INT TERM
    case "$missing" in *postgresql*)
        $as_root mkdir -p "$(dirname "$quiet_cluster")"
        echo "create_main_cluster = false" | $as_root tee "$quiet_cluster" >/dev/null
        ;;
    esac
    apt() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -q "$@" </dev/null >>"$log" 2>&1; }
    apt update || say "apt-get update failed; trying with the package lists that are here"
    packages=""
    for name in $missing; do
        case "$name" in
            postgresql-15) name=$(first_known postgresql-15 postgresql) ;;
            openjdk-17-jre-headless) name=$(first_known openjdk-17-jre-headless openjdk-21-jre-headless default-jre-headless) ;;
        esac
        packages="$packages $name"
    done
    # shellcheck disable=SC2086 # a list of names
    if ! apt install --no-install-recommends $packages; then
        tail -n 20 "$log" >&2
        say "apt-get could not install:$packages"
        exit 1
    fi
    # Debian's package starts a pooler of its own on port 6432; ours are private ones on free ports.
    case "$missing" in *pgbouncer*) $as_root systemctl disable --now pgbouncer >>"$log" 2>&1 || true ;; esac
fi

"$scripts/kafka.sh"

if ! have cargo; then
    say "there is no Rust: install 1.89 or later by rustup (Debian's own is too old), then run this again"
    exit 1
fi

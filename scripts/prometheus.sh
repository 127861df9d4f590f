#!/bin/sh
# Prints the directory that has prometheus and promtool: one on the PATH, or one in headwater's cache, unpacked there
# once from Debian's package. It is not installed, for the package would start a server of its own on port 9090.
set -eu

say() { echo "prometheus: $*" >&2; }

if tool=$(command -v promtool) && command -v prometheus >/dev/null; then
    dirname "$tool"
    exit 0
fi
home="${XDG_CACHE_HOME:-$HOME/.cache}/headwater/tools/prometheus"
if [ ! -x "$home/usr/bin/promtool" ]; then
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        say "prometheus and promtool are missing: install them by the name that this system has for them"
        exit 1
    fi
    mkdir -p "$(dirname "$home")"
    # Made beside its place and then renamed, so that an interrupted one is never taken for a whole one.
    made=$(mktemp -d "$home.XXXXXX")
    trap 'rm -rf "$made"' EXIT
    trap 'exit 130' INT TERM
    say "fetching Debian's package prometheus (19 MB) into $home, once"
    fetch() { (cd "$made" && apt-get -q download prometheus </dev/null >log 2>&1); }
    if ! fetch; then
        # The lists of packages may never have been fetched.
        as_root=""
        [ "$(id -u)" -eq 0 ] || as_root="sudo -n"
        $as_root apt-get -q update </dev/null >/dev/null 2>&1 || true
        if ! fetch; then
            cat "$made/log" >&2
            say "apt-get could not fetch the package prometheus"
            exit 1
        fi
    fi
    dpkg-deb -x "$made"/prometheus_*.deb "$made/unpacked"
    # Loses the race to another fetch in silence: then it is there, which is all that was wanted.
    mv -T "$made/unpacked" "$home" 2>/dev/null || [ -x "$home/usr/bin/promtool" ]
fi
echo "$home/usr/bin"

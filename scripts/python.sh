#!/bin/sh
# Makes a Python environment of pinned packages in headwater's cache, once, and prints the path of its interpreter:
#
#   scripts/python.sh                             the tests' readers (tests/requirements.txt)
#   scripts/python.sh deploy/requirements.txt     the checks of scripts/deploy-check.sh
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
wanted="$root/${1:-tests/requirements.txt}"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/headwater"
home="$cache/venv"
case "${1:-tests/}" in tests/*) ;; *) home="$cache/venv-$(dirname "$1" | tr / -)" ;; esac

say() { echo "python: $*" >&2; }
is_made() { cmp -s "$wanted" "$home/requirements.txt"; }

if is_made; then
    echo "$home/bin/python"
    exit 0
fi

mkdir -p "$cache"
# One at a time: another test run may be making it, and then it is there when the lock is ours.
exec 9>"$home.lock"
flock 9
if is_made; then
    echo "$home/bin/python"
    exit 0
fi

# Made beside its place and then renamed, so that an interrupted installation is never taken for a whole one.
made=$(mktemp -d "$home.XXXXXX")
trap 'rm -rf "$made"' EXIT
trap 'exit 130' INT TERM
say "installing $(grep -v '^#' "$wanted" | tr '\n' ' ')into $home, once"
if ! python3 -m venv "$made/venv" >"$made/log" 2>&1; then
    cat "$made/log" >&2
    say "python3 with its venv module is needed; on Debian: apt-get install -y python3-venv"
    exit 1
fi
tries=3
while ! "$made/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --only-binary :all: \
    -r "$wanted" </dev/null >"$made/log" 2>&1; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ]; then
        tail -n 20 "$made/log" >&2
        say "pip could not install them; where there is a mirror, name it by PIP_INDEX_URL"
        exit 1
    fi
    say "trying again"
done
cp "$wanted" "$made/venv/requirements.txt"
rm -rf "$home"
mv "$made/venv" "$home"
echo "$home/bin/python"

#!/bin/sh
# Sees to it that cargo has fmt and clippy, which a minimal Rust lacks.
set -eu
for component in rustfmt clippy; do
    program=cargo-fmt
    [ "$component" = clippy ] && program=cargo-clippy
    "$program" --version >/dev/null 2>&1 && continue
    if ! command -v rustup >/dev/null 2>&1; then
        echo "lint: $component is missing: install it beside your Rust" >&2
        exit 1
    fi
    echo "lint: adding Rust's component $component" >&2
    rustup --quiet component add "$component" </dev/null
done

#!/bin/sh
# Sets up, builds, and runs `rum demo` with the arguments given (see `rum demo --help`). `--ethernet` needs root.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'demo.sh: %s\n' "$*" >&2; }

PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
target=${CARGO_TARGET_DIR:-target}
built() { [ -x "$target/release/rum" ] && [ -x "$target/release/rum-slave" ] && [ -x "$target/release/catalogue" ]; }

if command -v cargo >/dev/null; then
    ./scripts/setup.sh
    # A clone that belongs to somebody else cannot take build files.
    if ! mkdir -p "$target" 2>/dev/null || ! [ -w "$target" ]; then
        if built; then
            say "$target is not mine to write: running what is built there"
        else
            target=${XDG_CACHE_HOME:-$HOME/.cache}/rum-target
            say "$target takes the build, since this folder is not mine to write"
        fi
    fi
    if [ -w "$target" ] || mkdir -p "$target" 2>/dev/null && [ -w "$target" ]; then
        say "building (the first time takes a few minutes)"
        CARGO_TARGET_DIR=$target cargo build --release --locked -p rum-cli -p rum-slave -p catalogue >&2
    fi
elif built; then
    say "no cargo: running what is built in $target/release"
else
    ./scripts/setup.sh # says what is missing
    exit 1
fi
exec "$target/release/rum" demo "$@"

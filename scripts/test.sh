#!/bin/bash
# Sets up, builds, and runs every test: cargo's, the documentation's, and the demo over both transports. The last line
# is `N passed, N failed`, with `, N skipped` when something could not run here; the exit code is 0 if nothing failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

passed=0 failed=0 skipped=0
failures=()
log=$(mktemp -d "${TMPDIR:-/tmp}/rum-test.XXXXXX") || exit 1
trap 'rm -rf "$log"' EXIT

step() { printf '\n== %s\n' "$*"; }
add() { passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3)); }
fail() { add 0 1 0; failures+=("$*"); printf '%s\n' "FAILED: $*"; }
skip() { add 0 0 1; printf '%s\n' "skipped: $*"; }

finish() {
    step "result"
    ((${#failures[@]} == 0)) || printf 'FAILED: %s\n' "${failures[@]}"
    local line="$passed passed, $failed failed"
    ((skipped == 0)) || line+=", $skipped skipped"
    printf '%s\n' "$line"
    ((failed == 0 && passed > 0))
    exit
}

# Counts from what `cargo test` or `cargo nextest run` printed. A run that ends badly without a failed test, such as one
# that does not compile, counts as one failure.
count() { # NAME STATUS FILE
    local sums
    sums=$(awk '
        /^test result:/ { for (i = 1; i < NF; i++) { if ($(i+1) ~ /^passed/) p += $i; if ($(i+1) ~ /^failed/) f += $i; if ($(i+1) ~ /^ignored/) s += $i } }
        / Summary \[/ { for (i = 1; i < NF; i++) { if ($(i+1) ~ /^passed/) p += $i; if ($(i+1) ~ /^failed/ || $(i+1) == "timed" ) f += $i; if ($(i+1) ~ /^skipped/) s += $i } }
        END { print p + 0, f + 0, s + 0 }' "$3")
    # shellcheck disable=SC2086
    add $sums
    local bad
    read -r _ bad _ <<<"$sums"
    if (($2 != 0)); then
        if ((bad == 0)); then fail "$1 (exit code $2)"; else failures+=("$1: $bad"); fi
    fi
}

cargo_suite() { # NAME COMMAND...
    local name=$1
    shift
    step "$name"
    "$@" 2>&1 | sed -u $'s/\x1b\\[[0-9;]*m//g' | tee "$log/out"
    count "$name" "${PIPESTATUS[0]}" "$log/out"
}

demo() { # NAME ARGS...
    local name=$1
    shift
    step "$name"
    if ./scripts/demo.sh "$@" 2>&1 | tee "$log/out" && [[ $(tail -n 1 "$log/out") == "demo: ok" ]]; then
        add 1 0 0
    else
        fail "$name"
    fi
}

step "set up"
if ! ./scripts/setup.sh --tests; then
    fail "setup"
    finish
fi
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"

step "build"
# Tests start the programs as real processes, so all of them have to be there first.
if ! cargo build --workspace --locked; then
    fail "build"
    finish
fi
if cargo nextest --version >/dev/null 2>&1; then
    cargo_suite "tests" cargo nextest run --workspace --locked --no-fail-fast --color never
    cargo_suite "documentation tests" cargo test --workspace --locked --no-fail-fast --doc --color never
else
    cargo_suite "tests" cargo test --workspace --locked --no-fail-fast --color never
fi

# The simulations have to notice endpoints and replicas that are wrong on purpose; nothing else is built with them.
cargo_suite "flawed endpoints" cargo test -p rum-net --locked --features broken --test simulation broken
cargo_suite "flawed replicas" cargo test -p paxos --locked --features broken --test simulation --test model --test former_lives broken

if [[ $(id -u) != 0 ]]; then
    skip "tests over network namespaces, packet sockets and full userfaultfd: they need root, and pass without running"
fi

demo "demo over vhost-user, with a slave killed" --kill
if [[ $(id -u) == 0 ]]; then
    demo "demo over raw Ethernet" --ethernet
else
    skip "demo over raw Ethernet: network namespaces need root"
fi
finish

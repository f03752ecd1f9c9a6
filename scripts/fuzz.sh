#!/bin/bash
# Runs fuzz targets, one after another: scripts/fuzz.sh [SECONDS [TARGET...]]; 600 seconds each, and all targets, unless told.
# Findings are left in fuzz/artifacts. Needs cargo-fuzz (cargo install cargo-fuzz). What new inputs it finds go to a folder of
# its own, so that the committed corpora stay small.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

# cargo-fuzz asks the compiler for what only nightly ones give; a stable one has it, too.
export RUSTC_BOOTSTRAP=1
seconds=${1:-600}
shift || true
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(cargo fuzz list --fuzz-dir .)
found=$(mktemp -d "${TMPDIR:-/tmp}/rum-fuzz.XXXXXX")
trap 'rm -rf "$found"' EXIT

failed=0
for target in "${targets[@]}"; do
    mkdir -p "$found/$target"
    # What is fuzzed has no unsafe code, so a sanitizer would only slow it down.
    if cargo fuzz run --fuzz-dir . -s none "$target" "$found/$target" "corpus/$target" -- \
        -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        >"$found/log" 2>&1; then
        printf '%s: %s executions in %s s, nothing found\n' "$target" \
            "$(sed -n 's/^stat::number_of_executed_units: *//p' "$found/log")" "$seconds"
    else
        failed=1
        printf '%s: FOUND SOMETHING\n' "$target"
        tail -n 40 "$found/log"
    fi
done
exit $failed

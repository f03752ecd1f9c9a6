#!/bin/sh
# Makes this machine able to build RUM: Debian packages and a check of the Rust toolchain. Changes nothing that is
# there already, and needs root only when a package is missing. `--tests` adds what only tests use: without it they skip.
set -eu

packages="libdpdk-dev pkg-config clang libclang-dev g++ make iproute2"
test_packages="tshark openvswitch-switch-dpdk util-linux"
rust_needed=1.88

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

missing_packages() { # PACKAGES
    for package in $1; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || printf '%s ' "$package"
    done
}

# Without dpkg nothing can be installed here, but the tools may have come another way.
check_tools() {
    pkg-config --exists libdpdk 2>/dev/null || fail "DPDK is missing (pkg-config finds no libdpdk): install DPDK 22.11 or newer"
    for tool in clang c++ make ip; do
        command -v "$tool" >/dev/null || fail "$tool is missing: install it (on Debian it is in one of: $packages)"
    done
}

install_packages() {
    missing=$(missing_packages "$packages")
    missing=${missing% }
    if [ -z "$missing" ]; then
        say "all Debian packages are there"
        return
    fi
    if [ "$(id -u)" -ne 0 ]; then
        fail "missing packages; run as root: apt-get update && apt-get install -y --no-install-recommends $missing"
    fi
    say "installing $missing"
    export DEBIAN_FRONTEND=noninteractive
    # The lists may be absent or old: only then is a second try after an update needed.
    # shellcheck disable=SC2086
    apt-get install -y -q --no-install-recommends $missing >&2 ||
        { apt-get update -q >&2 && apt-get install -y -q --no-install-recommends $missing >&2; } ||
        fail "apt-get could not install $missing"
}

# Nothing depends on them but tests, which say what they miss.
install_test_packages() {
    missing=$(missing_packages "$test_packages")
    missing=${missing% }
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        say "not installed, and tests that use them will be skipped: $missing"
        return 0
    fi
    say "installing $missing for tests"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    apt-get install -y -q --no-install-recommends $missing >&2 ||
        { apt-get update -q >&2 && apt-get install -y -q --no-install-recommends $missing >&2; } ||
        say "could not install $missing: tests that use them will be skipped"
}

# The demo reads the package catalogue when there is one; an empty list is fine, too.
refresh_catalogue() {
    [ "$(id -u)" -eq 0 ] || return 0
    [ -z "$(apt-cache dumpavail 2>/dev/null | head -n 1)" ] || return 0
    say "fetching the package lists (the demo's data)"
    apt-get update -q >&2 || say "no package lists: the demo takes the files under /usr/share/doc instead"
}

check_rust() {
    PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    command -v cargo >/dev/null ||
        fail "cargo is missing; install Rust with: curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"
    version=$(rustc --version 2>/dev/null | cut -d ' ' -f 2)
    [ -n "$version" ] || fail "rustc does not run: try \`rustup default stable\`"
    oldest=$(printf '%s\n%s\n' "$rust_needed" "$version" | sort -V | head -n 1)
    [ "$oldest" = "$rust_needed" ] || fail "Rust $version is too old, $rust_needed is needed: run \`rustup update stable\`"
    say "Rust $version is there"
}

if command -v dpkg-query >/dev/null; then
    install_packages
    [ "${1-}" != --tests ] || install_test_packages
    refresh_catalogue
else
    check_tools
fi
check_rust

#!/bin/sh
# Builds and installs the library, the headers, the pkg-config file and the programs: PREFIX=/usr/local scripts/install.sh
# DESTDIR, when set, is put before every path, for packages. `scripts/install.sh --uninstall` removes what was installed.
set -eu
cd "$(dirname "$0")/.."

prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}$prefix
target=${CARGO_TARGET_DIR:-target}/release
headers="rum.h rum_c_version.h hash_type.h Location.h rum.hpp"
programs="rum rum-slave"

say() { printf 'install.sh: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

case $prefix in
/*) ;;
*) fail "PREFIX=$prefix is not an absolute path" ;;
esac

uninstall() {
    for program in $programs; do rm -f "$root/bin/$program"; done
    for header in $headers; do rm -f "$root/include/rum/$header"; done
    rmdir "$root/include/rum" 2>/dev/null || true
    rm -f "$root/lib/librum.so" "$root/lib/pkgconfig/rum.pc"
    say "removed from $root"
}

# The dynamic loader keeps a cache of the system's folders; in others the program's run path or LD_LIBRARY_PATH serves.
refresh_loader() {
    if [ -z "${DESTDIR:-}" ] && [ "$(id -u)" -eq 0 ] && command -v ldconfig >/dev/null; then
        ldconfig
    fi
}

case ${1:-} in
'') ;;
--uninstall)
    uninstall
    refresh_loader
    exit
    ;;
*) fail "unknown argument $1: expected nothing or --uninstall" ;;
esac

PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
if [ -z "${RUM_INSTALL_BUILT:-}" ]; then
    cargo build --release --locked -p rum-c -p rum-cli -p rum-slave >&2
else
    # A folder with what was built before.
    target=$RUM_INSTALL_BUILT
fi
mkdir -p "$root/bin" "$root/lib/pkgconfig" "$root/include/rum" 2>/dev/null ||
    fail "cannot write to $root: run as root, or set PREFIX to a folder of yours"
for program in $programs; do install -m 755 "$target/$program" "$root/bin/$program"; done
install -m 755 "$target/librum.so" "$root/lib/librum.so"
for header in $headers; do install -m 644 "rum-c/include/$header" "$root/include/rum/$header"; done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
sed "s|@PREFIX@|$prefix|; s|@VERSION@|$version|" rum-c/rum.pc.in >"$root/lib/pkgconfig/rum.pc"
refresh_loader
say "installed in $root; compile with: cc program.c \$(pkg-config --cflags --libs rum)"

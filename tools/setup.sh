#!/usr/bin/env bash
# Makes .venv, with jitunwind (editable) and what its tests need; `make setup` runs it.
#
# What the system lacks is installed by apt-get where that is possible: as root, on Debian and the like.
# Elsewhere it says what to install. It asks nothing, and changes nothing that is there already.

set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

python=${PYTHON:-}
for candidate in python3 python3.11 python3.12 python3.13 python3.14; do
    [ -n "$python" ] && break
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
    fi
done
if [ -z "$python" ]; then
    say "error: Python 3.11 or later is needed: install it, or name one: make setup PYTHON=/path/of/python3"
    exit 2
fi

# One line for each thing: is it there, and the Debian package that brings it.
can_make_venvs() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
venv_package() { "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'; }
can_compile() { command -v cc >/dev/null && echo '#include <stdio.h>' | cc -xc -fsyntax-only - 2>/dev/null; }
can_load() { "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }
has_header() { echo "#include <$1>" | cc -xc -fsyntax-only - 2>/dev/null; }

missing=()
can_make_venvs || missing+=("$(venv_package)")
can_compile || missing+=(gcc libc6-dev)
command -v g++ >/dev/null || missing+=(g++)
has_header libunwind.h || missing+=(libunwind-dev)
has_header elfutils/libdwfl.h || missing+=(libdw-dev)
can_load libunwind.so.1 || missing+=(libunwind-19) # LLVM's
command -v readelf >/dev/null || missing+=(binutils)
command -v llvm-dwarfdump >/dev/null || missing+=(llvm)
command -v gdb >/dev/null || missing+=(gdb)
command -v chromium >/dev/null || missing+=(chromium)
command -v lldb >/dev/null || missing+=(lldb)
command -v perf >/dev/null || missing+=(linux-perf)
# AArch64's interpreters run under qemu where the machine is another one.
if [ "$(uname -m)" != aarch64 ]; then
    command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
    command -v gdb-multiarch >/dev/null || missing+=(gdb-multiarch)
    command -v aarch64-linux-gnu-gcc >/dev/null || missing+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
    command -v aarch64-linux-gnu-g++ >/dev/null || missing+=(g++-aarch64-linux-gnu)
fi

if [ ${#missing[@]} -gt 0 ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    say "installing ${missing[*]} with apt-get"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # Without a list of packages, or with an old one, the first try fails.
    install() { apt-get install -y -q --no-install-recommends "$@" </dev/null >"$log" 2>&1; }
    if ! install "${missing[@]}" && ! { apt-get update -q </dev/null >"$log" 2>&1 && install "${missing[@]}"; }; then
        for each in "${missing[@]}"; do # one that is not to be had does not keep the others away
            install "$each" && continue
            grep -E '^[EW]:' "$log" >&2 || tail -n 5 "$log" >&2
            say "apt-get could not install $each"
        done
    fi
fi

if ! can_make_venvs; then
    say "error: $python cannot make virtual environments: install $(venv_package) (Debian's name) as root"
    exit 2
fi
if can_compile; then
    export JITUNWIND_STRICT=1 # warnings of the compiler are errors, and so is an agent that cannot be built
else
    say "warning: no C compiler: nothing can be published, and tests that need one are left out; install gcc and libc6-dev"
fi
command -v readelf >/dev/null || say "warning: no readelf: tests that need it are left out; install binutils"
has_header libunwind.h || say "warning: no libunwind: tests that need it are left out; install libunwind-dev"
has_header elfutils/libdwfl.h || say "warning: no libdw: tests that need it are left out; install libdw-dev"
can_load libunwind.so.1 || say "warning: no libunwind of LLVM's: tests that need it are left out; install libunwind-19"
command -v llvm-dwarfdump >/dev/null || say "warning: no llvm-dwarfdump: tests that need it are left out; install llvm"
command -v lldb >/dev/null || say "warning: no lldb: tests that need it are left out; install lldb"
command -v perf >/dev/null || say "warning: no perf: tests that need it fail; install linux-perf"
command -v chromium >/dev/null || say "warning: no chromium: tests of the page that explain writes are left out; install chromium"
if [ "$(uname -m)" != aarch64 ]; then
    for each in qemu-aarch64:qemu-user gdb-multiarch:gdb-multiarch aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu; do
        command -v "${each%%:*}" >/dev/null ||
            say "warning: no ${each%%:*}: tests of AArch64 that need it are left out; install ${each##*:}"
    done
fi
extras=dev
if ! command -v gdb >/dev/null; then
    say "there is no gdb: taking the one from PyPI (jitunwind[gdb])"
    extras=dev,gdb
fi

if [ -e .venv ] && ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    say "making .venv anew: the one that is there does not work"
    rm -rf .venv
fi
if [ ! -e .venv ]; then
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv
fi
install_into_venv() {
    say "installing jitunwind[$1] into .venv"
    .venv/bin/python -m pip install -q --disable-pip-version-check --only-binary py-spy,pystack -e ".[$1]"
}
# demo is py-spy and pystack. They are not built here, and not on PyPI for every machine.
install_into_venv "$extras,demo" || {
    say "warning: with py-spy and pystack this fails: make demo goes without them"
    install_into_venv "$extras"
}
.venv/bin/jitunwind --version >&2

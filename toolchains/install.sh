#!/bin/sh
# Installs what building tern needs and this machine lacks: Debian 12, Ubuntu 24.04 and later.
#
#   toolchains/install.sh           to build, install and run: Rust, a C compiler, CMake,
#                                   Ninja, pkg-config, and Python with pip (fetches the models)
#   toolchains/install.sh --test    also for `make test`: C++, clang, valgrind, abidiff, clippy,
#                                   rustfmt, an aarch64 compiler, Rust library and emulator; and
#                                   into $TERN_CACHE/tools or ~/.cache/tern/tools what PyPI has of
#                                   tests/supply/requirements.txt
#   toolchains/install.sh --bench   also for `make test-long`: what counts instructions: an emulator
#                                   that takes plugins, and the runner of gungraun, built by cargo
#                                   into the same folder
#   toolchains/install.sh --mca     also for `make mca`: that aarch64 library, and llvm-mca
#   toolchains/install.sh --check   installs nothing; says what is missing and fails if anything is
#
# It says what it does, uses sudo only when it is not root already, installs only what is missing,
# and does nothing at all when nothing is. Everything comes from the distribution's own packages;
# only where those hold no Rust that is new enough does it ask rustup for one, and cargo and pip for
# what Debian does not have.
set -eu
cd "$(dirname "$0")/.."

test=no bench=no mca=no check=no
for arg; do
    case $arg in
    --test) test=yes ;;
    --bench) test=yes bench=yes ;;
    --mca) mca=yes ;;
    --check) check=yes ;;
    *)
        sed -n '2,20s/^# \{0,1\}//p' "$0"
        [ "$arg" = --help ] && exit 0 || exit 2
        ;;
    esac
done

. toolchains/env.sh

say() { printf 'install: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }
root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        say "needs root or sudo for: $*"
        exit 1
    fi
}

# --- what is missing ---------------------------------------------------------------------------

want= # packages to install
why=  # what they are for, for people
need() {
    want="$want $2"
    why="$why
install:   $2: $1"
}
machine=$(uname -m)

have cc || need "a C compiler" gcc
[ -e /usr/include/stdio.h ] || need "the C library's headers" libc6-dev
have objcopy || need "binutils" binutils
have cmake || need "CMake, 3.22 or later" cmake
have ninja || need "Ninja, which the CMake presets use" ninja-build
have pkg-config || need "pkg-config" pkg-config
if ! have python3 || ! python3 -m pip --version >/dev/null 2>&1; then
    need "pip, which fetches models" python3-pip
fi
[ -n "$(ls /etc/ssl/certs/*.pem 2>/dev/null | head -n 1)" ] || [ -e /etc/ssl/certs/ca-certificates.crt ] ||
    need "certificates for downloads" ca-certificates
if [ $test = yes ]; then
    have c++ || need "a C++ compiler" g++
    have clang || need "a second compiler for the header and the C tests" clang
    have valgrind || need "runs the C tests" valgrind
    have strace || need "kills programs that save, and lets their disks fail" strace
    { have file && have dpkg-shlibdeps; } || need "what packages depend on" "file dpkg-dev"
    have abidiff || need "compares the ABI with the baseline" abigail-tools
    if [ "$machine" != aarch64 ]; then
        have aarch64-linux-gnu-gcc || need "an aarch64 C compiler" gcc-aarch64-linux-gnu
        have aarch64-linux-gnu-g++ || need "an aarch64 C++ compiler" g++-aarch64-linux-gnu
        [ -e /usr/aarch64-linux-gnu/include/stdio.h ] ||
            need "the C library for aarch64" libc6-dev-arm64-cross
        have qemu-aarch64-static || need "runs aarch64 programs" qemu-user-static
    fi
fi
# The runner must be of exactly the version of the library that tests/bench has.
tools=${TERN_CACHE:-$HOME/.cache/tern}/tools
gungraun=$(sed -n 's/^gungraun = "=\([0-9.]*\)".*/\1/p' tests/bench/Cargo.toml)
runner=have
if [ $bench = yes ]; then
    have qemu-aarch64 || need "counts aarch64 instructions (qemu-user-static takes no plugins)" qemu-user
    grep -qs "^\"gungraun-runner $gungraun " "$tools/.crates.toml" || runner=missing
fi

# In a folder of its own, so that neither the system's packages nor the user's are touched.
python=have
if [ $test = yes ] && ! cmp -s tests/supply/requirements.txt "$tools/python/requirements.txt"; then
    python=missing
fi

if [ $mca = yes ]; then
    mca_found=no
    for v in $(seq 16 40); do
        { have "llvm-mca-$v" && have "llvm-objdump-$v"; } && mca_found=yes
    done
    # 19 is what docs/aarch64-kernels.md is written with, and Debian 12 and Ubuntu 24.04 have it.
    [ $mca_found = yes ] || need "models of aarch64 CPUs" llvm-19
    if [ "$machine" != aarch64 ]; then
        have aarch64-linux-gnu-gcc || need "an aarch64 C compiler" gcc-aarch64-linux-gnu
    fi
fi

# The target library of Rust for aarch64 belongs to the compiler that is used.
has_aarch64_std() {
    ls "$(rustc --print sysroot 2>/dev/null)"/lib/rustlib/aarch64-unknown-linux-gnu/lib/libstd-*.rlib \
        >/dev/null 2>&1
}
rust=have
[ -n "$TERN_RUST" ] || rust=missing
std=have
if [ $test$mca != nono ] && [ "$machine" != aarch64 ] && { [ $rust = missing ] || ! has_aarch64_std; }; then
    std=missing
fi
lint=have
if [ $test = yes ] && { ! cargo clippy --version || ! cargo fmt --version; } >/dev/null 2>&1; then
    lint=missing
fi

if [ -z "$want" ] && [ $rust = have ] && [ $std = have ] && [ $lint = have ] &&
    [ $runner = have ] && [ $python = have ]; then
    say "nothing to do: all tools are here (Rust $TERN_RUST)"
    exit 0
fi
if [ $check = yes ]; then
    say "missing:$want$([ $rust = have ] || echo " Rust>=$TERN_MSRV")$(
        [ $std = have ] || echo " Rust's-library-for-aarch64")$([ $lint = have ] || echo " clippy/rustfmt")$([ $runner = have ] || echo " gungraun-runner")$([ $python = have ] || echo " tests/supply/requirements.txt")"
    exit 1
fi
if ! have apt-get; then
    say "this script knows apt-get only. Please install:$want, and Rust $TERN_MSRV or later"
    exit 1
fi

# --- the distribution's packages -----------------------------------------------------------------

updated=no
update() {
    [ $updated = yes ] && return
    say "reading the lists of packages (apt-get update)"
    root apt-get update -q >&2 ||
        say "some lists could not be read; going on with those that could"
    updated=yes
}
get() {
    say "apt-get install --no-install-recommends $*"
    root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2
}
# The version that installing package $1 would give; empty if there is none.
candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \([0-9][^ ]*\).*/\1/p'; }

if [ -n "$want" ]; then
    say "installing what is missing:$why"
    update
    # shellcheck disable=SC2086
    get $want
fi

# --- Rust -----------------------------------------------------------------------------------------
# Debian 12: rustc-web and cargo-web, which its security updates keep new. Ubuntu 24.04: versioned
# packages rustc-1.N. Otherwise the plain packages, if they are new enough; otherwise rustup.

plain() { # the unversioned packages of the distribution: rustc$1, cargo$1
    v=$(candidate "rustc$1")
    _tern_at_least "${v%%[+~-]*}" "$TERN_MSRV" && [ -n "$(candidate "cargo$1")" ]
}
newest_versioned() {
    apt-cache search -n '^rustc-1\.[0-9]*$' | sed -n 's/^rustc-\(1\.[0-9]*\) .*/\1/p' | sort -rV |
        while read -r v; do
            if _tern_at_least "$v" "$TERN_MSRV" && [ -n "$(candidate "rustc-$v")" ] &&
                [ -n "$(candidate "cargo-$v")" ]; then
                echo "$v"
                break
            fi
        done
}
rustup_get() {
    if ! have rustup; then
        [ -n "$(candidate rustup)" ] || return 1
        get rustup || return 1
    fi
    say "rustup toolchain install stable"
    rustup toolchain install stable --profile minimal >&2 && rustup default stable >&2
}
distribution=$(sed -n 's/^ID=//p' /etc/os-release 2>/dev/null)
if [ $rust = missing ]; then
    say "Rust $TERN_MSRV or later is missing"
    update
    # Where rustup is, it is what the user chose. For the tests on Ubuntu it is the only way to
    # Rust's library for aarch64: the packages of other architectures are on other servers there.
    if have rustup || { [ "$distribution" = ubuntu ] && [ $test = yes ]; }; then
        rustup_get || say "rustup did not get one; trying the packages"
        hash -r
        . toolchains/env.sh
    fi
    if [ -z "$TERN_RUST" ]; then
        if plain ''; then
            get rustc cargo
        elif plain -web; then
            get rustc-web cargo-web
        elif v=$(newest_versioned) && [ -n "$v" ]; then
            get "rustc-$v" "cargo-$v"
        else
            rustup_get || {
                say "found no Rust >= $TERN_MSRV in this system's packages (Debian 12 has it in its" \
                    "security updates, Ubuntu 24.04 in 'noble-updates'), and no rustup: enable either"
                exit 1
            }
        fi
        hash -r
        . toolchains/env.sh
    fi
    [ -n "$TERN_RUST" ] || {
        say "installed, but no rustc >= $TERN_MSRV with a cargo beside it was found"
        exit 1
    }
    say "Rust $TERN_RUST: $(command -v cargo)"
fi

if [ $test$mca != nono ]; then
    sysroot=$(rustc --print sysroot)
    # Which door the compiler came through decides where its companions come from.
    case $sysroot in
    */toolchains/*) from=rustup ;;
    /usr/lib/rust-1.*) from=$(basename "$sysroot" | sed 's/^rust//') ;; # -1.N
    *) from=$(dpkg -S "$(readlink -f "$(command -v rustc)")" 2>/dev/null | sed -n 's/^rustc\([^:]*\):.*/\1/p') ;;
    esac
    if ! cargo clippy --version >/dev/null 2>&1 || ! cargo fmt --version >/dev/null 2>&1; then
        update
        case $from in
        rustup) rustup component add clippy rustfmt >&2 ;;
        -web) get rust-web-clippy rustfmt-web ;;
        -1.*) get "rust$from-clippy" "rustfmt$from" ;;
        *) get rust-clippy rustfmt ;;
        esac || say "no clippy or rustfmt to be had; make test will skip those steps and say so"
    fi
    if [ "$machine" != aarch64 ] && ! has_aarch64_std; then
        update
        case $from,$distribution in
        rustup,*) rustup target add aarch64-unknown-linux-gnu >&2 ;;
        *,ubuntu) false ;; # its packages of other architectures are on other servers
        *)
            # A matching pair: the library must be of exactly the compiler's version.
            if ! dpkg --print-foreign-architectures | grep -qx arm64; then
                say "dpkg --add-architecture arm64"
                root dpkg --add-architecture arm64
                updated=no
                update
            fi
            get "libstd-rust$from-dev:arm64"
            ;;
        esac || say "no Rust library for aarch64 to be had; make test will skip those steps and say so"
    fi
fi
if [ $runner = missing ]; then
    say "cargo install gungraun-runner@$gungraun, into $tools"
    cargo install --locked --quiet --root "$tools" "gungraun-runner@$gungraun" >&2 ||
        say "no gungraun-runner to be had; make test-long will skip its step and say so"
fi
if [ $python = missing ]; then
    say "pip install -r tests/supply/requirements.txt, into $tools/python"
    rm -rf "$tools/python"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
        --target "$tools/python" -r tests/supply/requirements.txt >&2 &&
        cp tests/supply/requirements.txt "$tools/python/" ||
        say "pip could not get them all; the steps deny and sbom will be skipped and say so"
fi
say "done"

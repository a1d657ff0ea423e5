# Chooses the Rust toolchain that the build uses; sourced by install.sh, the Makefile and tests/run.sh.
# The current folder must be the repository's.
#
# The first of these that is new enough (Cargo.toml's rust-version) is put in front of PATH:
# what PATH has, what rustup put in ~/.cargo/bin, what the system has in /usr/bin, then Ubuntu's
# versioned packages, newest first. Those keep their programs in /usr/lib/rust-1.N/bin; their /usr/bin/cargo-1.N is not used, because
# for some versions it is a script that starts the default compiler.
#
# Sets TERN_MSRV, and TERN_RUST to the version found (empty: none is new enough).

TERN_MSRV=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' Cargo.toml)

# Version $1 is at least version $2; both are like 1.89 or 1.89.0.
_tern_at_least() {
    [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ] ||
        [ "$1" = "$2" ] || [ "$1" = "$2.0" ]
}

# Prints the version of the rustc in folder $1 (empty: of the one in PATH), if cargo is beside it.
_tern_rust_version() {
    if [ -n "$1" ]; then
        [ -x "$1/cargo" ] && [ -x "$1/rustc" ] || return 0
        "$1/rustc" --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p'
    else
        command -v cargo >/dev/null 2>&1 || return 0
        rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p'
    fi
}

TERN_RUST=
for _tern_dir in '' "${HOME:-/root}/.cargo/bin" /usr/bin \
    $(ls -d /usr/lib/rust-1.*/bin 2>/dev/null | sort -rV); do
    _tern_found=$(_tern_rust_version "$_tern_dir")
    if _tern_at_least "$_tern_found" "$TERN_MSRV"; then
        TERN_RUST=$_tern_found
        if [ -n "$_tern_dir" ]; then
            PATH="$_tern_dir:$PATH"
            export PATH
        fi
        break
    fi
done
unset _tern_dir _tern_found

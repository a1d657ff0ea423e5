#!/bin/sh
# Makes the peer's home: a tree with Debian sid's own llama.cpp, by debootstrap (installed with
# apt-get if missing), 0.5 GB. Nothing else of the machine changes. Needs root.
#
#   tests/peer/tree.sh [PROGRAM]     makes the tree if it is not there, and says where it is; the
#                                    program is one that must be in it (llama-bench)
#
# TERN_PEER_ROOT=DIR   where; default: $TERN_CACHE/peer or ~/.cache/tern/peer
set -eu

cache=${TERN_CACHE:-$HOME/.cache/tern}
root=${TERN_PEER_ROOT:-$cache/peer}
program=${1:-llama-bench}

say() { printf 'peer: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

if ! [ -x "$root/usr/bin/$program" ]; then
    [ "$(id -u)" = 0 ] || { say "needs root, as debootstrap and chroot do"; exit 1; }
    if ! have debootstrap; then
        say "installs debootstrap"
        apt-get install -y --no-install-recommends debootstrap debian-archive-keyring >&2
    fi
    # From where this machine gets its own packages, if that is Debian; else debootstrap's default.
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 2>/dev/null |
        awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }')
    say "makes a Debian sid in $root"
    mkdir -p "$root"
    # shellcheck disable=SC2086 # no mirror is no argument
    debootstrap --variant=minbase sid "$root" $mirror >&2
    chroot "$root" apt-get install -y --no-install-recommends llama.cpp-tools >&2
fi
echo "$root"

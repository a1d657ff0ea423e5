#!/bin/sh
# Compares the ABI of libtern.so with the committed baseline. Any difference that a program could
# notice fails; growth that the rules in src/ffi/mod.rs allow does not.
#
#   tests/abi/check.sh LIBTERN_SO            compare with tests/abi/tern.abi
#   tests/abi/check.sh --write LIBTERN_SO    make a new baseline: by hand, with a CHANGELOG entry
#
# The library must have full debug info, as that of the step `offline`: with less, abidiff does not
# see into structs and finds nothing, so that is looked at first. Constants are not in debug
# info; tests/c/abi.c holds those. The baseline is that of x86-64.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
write=
if [ "${1:-}" = --write ]; then
    write=1
    shift
fi
library=${1:?usage: tests/abi/check.sh [--write] LIBTERN_SO}
skip() {
    echo "SKIPPED: tests/abi/check.sh: $1" >&2
    exit 0
}
command -v abidw >/dev/null && command -v abidiff >/dev/null ||
    skip "abidw or abidiff is missing (package abigail-tools)"
[ "$(uname -m)" = x86_64 ] || skip "the baseline is that of x86-64, this is $(uname -m)"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What is Rust's own and only passes by is left out.
cat >"$work/own.suppr" <<'END'
[suppress_function]
  name_not_regexp = ^tern_
  drop = yes
[suppress_type]
  name_regexp = (memmap2|minijinja|half|std::|alloc::|io::|Result<)
  drop = yes
END
# Paths differ from machine to machine, so units are numbered; those that add nothing are left out.
abidw --suppressions "$work/own.suppr" --type-id-style hash --no-elf-needed --no-corpus-path \
    --no-comp-dir-path --no-show-locs "$library" |
    awk '/<abi-instr/ { held = $0; sub(/path=.[^ ]*/, "path='"'unit-\" ++n \"'"'", held); next }
        /<\/abi-instr/ && held { held = ""; next }
        held { print held; held = "" }
        { print }' >"$work/now.abi"
if ! grep -q "name='n_threads_prefill'" "$work/now.abi"; then
    echo "tests/abi/check.sh: $library does not show the fields of structs;" \
        "take that of: make test STEPS=offline" >&2
    exit 1
fi
if [ -n "$write" ]; then
    cp "$work/now.abi" "$here/tern.abi"
    echo "tests/abi/tern.abi is written; say in CHANGELOG.md what changed, under ABI"
    exit 0
fi
abidiff --suppressions "$here/tern.suppr" "$here/tern.abi" "$work/now.abi"

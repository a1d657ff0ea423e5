#!/bin/sh
# `make dist`: a source archive with every crate that Cargo.lock names, which builds without a network:
#
#   tar xf tern-VERSION.tar.gz && cd tern-VERSION
#   cmake -S . -B build/mine -DTERN_CARGO_FLAGS=--frozen
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version *= *"\([^"]*\)".*/\1/p' Cargo.toml | head -n 1)
out=$PWD/build/dist/tern-$version
rm -rf "$out" "$out.tar.gz"
mkdir -p "$out/.cargo"
git ls-files -z | xargs -0 cp --parents -t "$out"
cargo vendor --locked --versioned-dirs "$out/vendor" >"$out/.cargo/config.toml.raw" 2>/dev/null
# cargo names the folder as it is here; in the archive it is beside Cargo.toml.
sed "s|$out/||" "$out/.cargo/config.toml.raw" >"$out/.cargo/config.toml"
rm "$out/.cargo/config.toml.raw"
# The same bytes from the same commit.
tar -C "$PWD/build/dist" --sort=name --owner=0 --group=0 --numeric-owner \
    --mtime="@$(git log -1 --format=%ct)" -cf - "tern-$version" | gzip -9n >"$out.tar.gz"
rm -rf "$out"
ls -l "$out.tar.gz"

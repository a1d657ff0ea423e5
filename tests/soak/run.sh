#!/usr/bin/env bash
# Soaks the library as it is released for so many minutes: tests/soak.rs says what is held then.
#
#   tests/soak/run.sh [MINUTES]        120 by default
#
# Samples go to build/soak/soak.jsonl, and what they come to, in words, to build/soak/soak.txt;
# tests/soak/report.py writes docs/soak.md from both. Built apart, so that nothing else disturbs it.
set -euo pipefail
cd "$(dirname "$0")/../.."
. toolchains/env.sh
minutes=${1:-120}
export CARGO_TARGET_DIR=$PWD/build/soak/cargo
mkdir -p build/soak
cargo rustc --locked --release --lib --crate-type staticlib --no-default-features
rm -f build/soak/soak.txt
TERN_TEST_LIB=$CARGO_TARGET_DIR/release/libtern.a \
    TERN_SOAK_MINUTES=$minutes TERN_SOAK_LOG=$PWD/build/soak/soak.jsonl \
    cargo test --locked --test soak -- --ignored --nocapture | tee build/soak/running.txt
mv build/soak/running.txt build/soak/soak.txt

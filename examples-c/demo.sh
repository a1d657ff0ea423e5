#!/bin/sh
# `make demo`: from a fresh checkout to a model that answers.
#
#   PROMPT="..." a question to answer; without it, a conversation if this is a terminal, else a
#                question of our own
#   MODEL=path   a GGUF file; without it, SmolLM2-135M-Instruct is fetched once (98 MB)
set -eu
cd "$(dirname "$0")/.."
say() { printf '\n== %s\n' "$*" >&2; }

say "1/4 tools"
toolchains/install.sh
. toolchains/env.sh

say "2/4 model"
model=${MODEL:-}
if [ -z "$model" ]; then
    model=$(python3 toolchains/fetch.py smollm2)
fi
[ -r "$model" ] || { echo "demo: cannot read $model" >&2; exit 1; }
echo "demo: $model" >&2

say "3/4 libtern, installed to build/prefix; the examples, built against that"
cmake -S . -B build/demo -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DTERN_BUILD_COMMAND=OFF -DTERN_BUILD_TESTS=OFF --log-level=WARNING >&2
cmake --build build/demo >&2
cmake --install build/demo --prefix "$PWD/build/prefix" >/dev/null
cmake -S examples-c -B build/examples -G Ninja -DCMAKE_PREFIX_PATH="$PWD/build/prefix" \
    --log-level=WARNING >&2
cmake --build build/examples >&2

say "4/4 examples-c/chat"
if [ -n "${PROMPT:-}" ]; then
    exec build/examples/chat "$model" "$PROMPT"
elif [ -t 0 ] && [ -t 1 ]; then
    exec build/examples/chat "$model"
else
    exec build/examples/chat "$model" "What is the capital of France, and what is it known for?"
fi

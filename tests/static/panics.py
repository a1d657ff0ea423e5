#!/usr/bin/env python3
"""No code that reads files, templates or snapshots can panic: checked in the linked library.

  tests/static/panics.py LIBRARY     an ELF file with symbols and line tables, such as
                                     build/native/libtern.so
  tests/static/panics.py --control   does this script find panics? Compiles tests/static/control
                                     and expects what is in there, and nothing else
  --all                              says every way to a panic, allowed ones too

TERN_OBJDUMP, TERN_ADDR2LINE: other programs than objdump and addr2line, for other machines' files.

Lints (src/gguf/mod.rs and others) keep indexing, arithmetic and unwrap out of the sources. What they
do not see is in the standard library: `copy_from_slice`, `step_by`, a sum, a sort. So this looks at
what the compiler left after it removed all that cannot happen:

1. Places. A panic that a caller is to blame for is given the caller's place in the sources
   (core::panic::Location), which is data that the linker keeps only if something uses it. No such
   place may be in PARSERS.
2. Calls. No call or jump to a function that panics or ends the process (SINKS) may be in code of
   PARSERS, by the line tables: wherever it was inlined, and with what was inlined into it from the
   standard library.
3. Ways. Nor may a function of the standard library to which code of PARSERS makes a call, or which
   such a function calls, and so on. ALLOWED has those that do, and says why they never do it.

What this does not see: calls through pointers (formatting, `dyn`, callbacks; they are counted), what
functions of other modules do that PARSERS call, and stack overflow.
"""

import bisect
import collections
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

# The modules that read what others made, by how their paths begin.
PARSERS = [
    "src/gguf/",
    "src/tokenizer/",
    "src/chat/",
    "src/model/hparams.rs",
    "src/model/rope.rs",
    "src/model/weights.rs",
    "src/model/whole.rs",
    "src/engine/load.rs",
    "src/engine/weights.rs",
    "src/engine/snapshot/",
    "src/kv/cache/saved/",
    "src/sampler/state.rs",
]
# And functions of other modules that do.
FUNCTIONS = [
    ("src/kv/slots.rs", "read"),
    ("src/kv/cells.rs", "read"),
    ("src/kv/history.rs", "read"),
    ("src/kv/segments.rs", "read"),
    ("src/base/le.rs", ""),
    ("src/base/heap.rs", ""),
    ("src/base/line.rs", "deref"),
    ("src/base/line.rs", "write"),
    ("src/base/line.rs", "write_str"),
]

SINKS = re.compile(
    r"core::panicking::"
    r"|core::(option|result)::(unwrap|expect)_failed"
    r"|core::slice::(index::slice_|copy_from_slice_impl)"
    r"|core::str::slice_error_fail"
    r"|core::cell::(panic_|.*failed)"
    r"|core::slice::sort::.*panic_on_ord_violation"
    r"|alloc::alloc::handle_alloc_error"
    r"|alloc::raw_vec::(handle_error|capacity_overflow)"
    r"|std::(panicking::(?!panic_count)|process)::"
)

# Ways that are there and not taken: what the function or the sink is called, and why.
ALLOWED = [
    (
        r"core::panicking::panic_(in_cleanup|cannot_unwind)$",
        "where a drop would panic while a panic unwinds, which needs a panic to begin with",
    ),
    (
        r"alloc::raw_vec::handle_error$",
        "lists grow where room was reserved for what is pushed: the tests gguf, tokenizer_tables, chat"
        " and c refuse every allocation in turn, and would end here",
    ),
    (
        r"core::str::(pattern|iter)::|core::str::<impl str>::r?(find|split_once)|core::slice::memchr",
        "searching in texts: places that the search itself has found",
    ),
    (
        r"core::unicode::",
        "tables of characters: places that the tables themselves hold",
    ),
    (
        r"as core::str::traits::FromStr>::from_str",
        "reading a float: digits of a buffer whose length the reader knows",
    ),
    (
        r"hashmap_random_keys",
        "the system's random bytes: as many as it says, of as many as were asked for",
    ),
    (
        r"core::slice::<impl \[T\]>::reverse::revswap",
        "turning a list round: two halves of one length",
    ),
]


class Failed(Exception):
    """What was looked at is not what this can judge."""


class Library:
    """The functions of an ELF file, what they call, and where each call is in the sources."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            self.elf = file.read()
        if self.elf[:6] != b"\x7fELF\x02\x01":
            raise Failed(f"{path}: not an ELF file of 64 bits, little-endian")
        self.pointers = {}  # what the linker knows each to point to, by its own address
        self.read_pointers()
        self.names = {}  # of functions, by address
        self.calls = []  # (address, function, function that is called)
        self.n_indirect = collections.Counter()  # calls through pointers, by function
        self.disassemble()
        addresses = sorted({at for at, _, _ in self.calls} | set(self.names))
        self.stacks = self.inlined(addresses)

    def disassemble(self):
        objdump = os.environ.get("TERN_OBJDUMP", "objdump")
        command = [objdump, "-d", "-C", "-w", "--no-show-raw-insn", self.path]
        header = re.compile(r"^([0-9a-f]+) <(.*)>:$")
        # x86-64: call, jmp, jcc, with prefixes; aarch64: bl, b, b.cond, cbz, tbz.
        branch = re.compile(
            r"^\s*([0-9a-f]+):\s+(?:addr32 |bnd |data16 |rex\.W )*"
            r"(callq?|j[a-z]+|bl|b|b\.[a-z]+|cbn?z|tbn?z)\s+(?:\S+,\s+)*(?:0x)?([0-9a-f]+) <"
        )
        # On x86-64 also through a pointer that the linker fills in; other such jumps are in a `match`.
        filled = re.compile(r"^\s*([0-9a-f]+):\s+(?:bnd )*(?:call|jmp)q? +\*.*\(%rip\)\s+# ([0-9a-f]+)")
        indirect = re.compile(r"^\s*[0-9a-f]+:\s+(?:bnd |notrack )*(?:callq? +\*|blr\s)")
        function, starts, raw = None, [], []
        for line in run(command).splitlines():
            if found := header.match(line):
                function = int(found[1], 16)
                self.names[function] = re.sub(r"\[[0-9a-f]{16}\]", "", found[2])
                starts.append(function)
            elif found := branch.match(line):
                raw.append((int(found[1], 16), function, int(found[3], 16)))
            elif (found := filled.match(line)) and int(found[2], 16) in self.pointers:
                raw.append((int(found[1], 16), function, self.pointers[int(found[2], 16)]))
            elif indirect.match(line):
                self.n_indirect[function] += 1
        if not starts:
            raise Failed(f"{self.path}: no functions; is it stripped?")
        starts.sort()
        for at, function, to in raw:
            i = bisect.bisect_right(starts, to)
            if i and starts[i - 1] != function:
                self.calls.append((at, function, starts[i - 1]))

    def inlined(self, addresses):
        """For each address the functions it is in, the innermost first: [(name, file, line)]."""
        addr2line = os.environ.get("TERN_ADDR2LINE", "addr2line")
        command = [addr2line, "-e", self.path, "-a", "-f", "-i", "-C"]
        lines = run(command, "".join(f"{at:#x}\n" for at in addresses)).splitlines()
        stacks, stack, name = {}, None, None
        for line in lines:
            if line.startswith("0x") and re.fullmatch(r"0x[0-9a-f]+", line):
                stack = stacks.setdefault(int(line, 16), [])
                name = None
            elif name is None:
                name = line
            else:
                file, _, number = line.partition(" ")[0].rpartition(":")
                stack.append((name, relative(file), number))
                name = None
        return stacks

    def offset_of(self, address):
        return next((o + address - a for a, end, o in self.loaded if a <= address < end), None)

    def read_pointers(self):
        elf = self.elf
        (ph, sh), (n_ph, _, n_sh) = (
            struct.unpack_from("<QQ", elf, 32),
            struct.unpack_from("<HHH", elf, 56),
        )
        segments = [struct.unpack_from("<IIQQQQ", elf, ph + 56 * i) for i in range(n_ph)]
        self.loaded = [(at, at + n, offset) for kind, _, offset, at, _, n in segments if kind == 1]
        for i in range(n_sh):
            _, kind, _, _, offset, size = struct.unpack_from("<IIQQQQ", elf, sh + 64 * i)
            if kind != 4:  # SHT_RELA
                continue
            for at in range(offset, offset + size, 24):
                where, info, addend = struct.unpack_from("<QQq", elf, at)
                if info & 0xFFFFFFFF in (8, 1027):  # R_X86_64_RELATIVE, R_AARCH64_RELATIVE
                    self.pointers[where] = addend

    def places(self):
        """All core::panic::Location: (file, line, column)."""
        found = set()
        for where, text in self.pointers.items():
            where, text = self.offset_of(where), self.offset_of(text)
            if where is None or text is None:
                continue
            n, line, column = struct.unpack_from("<QII", self.elf, where + 8)
            name = self.elf[text : text + n] if 3 < n < 300 else b""
            if name.endswith(b".rs"):
                found.add((relative(name.decode("utf-8", "replace")), line, column))
        return found


def run(command, given=None):
    if not shutil.which(command[0]):
        print(f"SKIPPED: {command[0]} is missing (toolchains/install.sh --test)")
        sys.exit(77)
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command[:4])}: {done.stderr.strip()}")
    return done.stdout


def relative(path):
    """Of a file of ours, which cmake/cargo.cmake calls /tern, its place in the sources."""
    path = os.path.normpath(path)
    for root in (ROOT, "/tern"):
        if path.startswith(root + os.sep) and not path.startswith("/tern/deps/"):
            return path[len(root) + 1 :]
    return path


def is_std(file):
    """Whether a file is of the standard library or of what it is built with."""
    return file.startswith(("/rustc/", "/rust/deps/")) or "/lib/rustlib/src/" in file


def short(name):
    """The last part of a function's name, without what it is generic over."""
    name = re.sub(r"(::\{\{closure\}\})+$", "", name)
    while (cut := re.sub(r"<[^<>]*>", "", name)) != name:
        name = cut
    return name.split("::")[-1]


def check(library, parsers, functions, allowed):
    """What can panic, as sentences; and what is allowed to, by its reason."""

    def own(stack):
        """The innermost function that is ours: what is inlined into it is the standard library's."""
        return next((frame for frame in stack if not is_std(frame[1])), ("?", "?", "?"))

    def parses(stack):
        name, file, _ = own(stack)
        return (
            file.startswith(tuple(parsers))
            or (file, "") in functions
            or (file, short(name)) in functions
        )

    def shown(stack, at):
        name, file, line = own(stack)
        return f"{file}:{line} ({name}, at {at:#x})"

    bad, used = [], collections.Counter()
    for file, line, column in sorted(library.places()):
        if file.startswith(tuple(parsers)):
            bad.append(f"{file}:{line}:{column}: a panic is told of this place")

    calls_of = collections.defaultdict(list)
    roots = []
    for at, function, to in library.calls:
        stack = library.stacks.get(at, [])
        calls_of[function].append((at, to, stack))
        if parses(stack):
            roots.append((at, to, stack))

    def reason(*names):
        for pattern, why in allowed:
            if any(re.search(pattern, name) for name in names):
                return why
        return None

    def home(function):
        stack = library.stacks.get(function) or [("", "", "")]
        return stack[-1][1]

    # For each function of the standard library, one way from it to a sink: the names on it.
    ways = {}

    def way(function):
        todo, came = [function], {function: None}
        while todo:
            here = todo.pop()
            for _, to, stack in calls_of[here]:
                if any(not is_std(file) for _, file, _ in stack):
                    continue  # of another module, that is inlined there
                if SINKS.search(library.names[to]):
                    names, at = [library.names[to]], here
                    while at is not None:
                        names.insert(0, library.names[at])
                        at = came[at]
                    if not (why := reason(*names, *(name for name, _, _ in stack))):
                        return names
                    used[why] += 1
                elif to not in came and is_std(home(to)):
                    came[to] = here
                    todo.append(to)
        return None

    for at, to, stack in roots:
        name = library.names[to]
        if SINKS.search(name):
            if why := reason(name, *(name for name, file, _ in stack if is_std(file))):
                used[why] += 1
            else:
                bad.append(f"{shown(stack, at)}: calls {name}")
        elif is_std(home(to)):
            if to not in ways:
                ways[to] = way(to)
            if ways[to]:
                bad.append(f"{shown(stack, at)}: a way to a panic: {', '.join(ways[to])}")
    return bad, used, roots


def judge(path, everything):
    library = Library(path)
    bad, used, roots = check(library, PARSERS, FUNCTIONS, [] if everything else ALLOWED)
    for sentence in sorted(set(bad)):
        print(sentence)
    files = {file for _, _, stack in roots for _, file, _ in stack}
    for prefix in PARSERS + [file for file, _ in FUNCTIONS]:
        if not any(file.startswith(prefix) for file in files):
            raise Failed(f"{path}: no call of {prefix}: it has no line tables, or PARSERS is out of date")
    for _, why in [] if everything else ALLOWED:
        if not used[why]:
            raise Failed(f"{path}: nothing needs this to be allowed any more: {why}")
    at_roots = {at for at, _, _ in roots}
    mine = {function for at, function, _ in library.calls if at in at_roots}
    n_indirect = sum(library.n_indirect[function] for function in mine)
    print(
        f"{len(roots)} calls of code that reads files, in {len(mine)} functions: {len(set(bad))} can"
        f" panic; {sum(used.values())} ways are allowed; {n_indirect} calls through pointers"
    )
    return not bad


def control():
    """What the library of tests/static/control must be found to do, and what not."""
    source = os.path.join(HERE, "control", "lib.rs")
    rustc = os.environ.get("RUSTC", "rustc")
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "control.so")
        flags = "--edition 2024 --crate-type cdylib -O -C debuginfo=1 -C overflow-checks=on -C codegen-units=1"
        run([rustc, *flags.split(), "-o", out, source])
        parser = relative(os.path.join(HERE, "control", "parser.rs"))
        bad, _, roots = check(Library(out), [parser], [], ALLOWED[:1])
    text = open(os.path.join(HERE, "control", "parser.rs"), encoding="utf-8").read().splitlines()
    found = collections.defaultdict(set)  # by line
    for sentence in bad:
        if match := re.match(r"[^:]*parser\.rs:(\d+)", sentence):
            how = "place" if "told of" in sentence else "way" if "a way" in sentence else "call"
            found[int(match[1])].add(how)
        else:
            raise Failed(f"the control: not in the parser: {sentence}")
    ok = True
    for number, line in enumerate(text, 1):
        expected = set(re.findall(r"\b(place|call|way)\b", line.partition("// found: ")[2]))
        if found[number] != expected:
            print(f"control/parser.rs:{number}: found {sorted(found[number])}, expected {sorted(expected)}")
            ok = False
    print(f"the control: {sum(map(len, found.values()))} ways to a panic found, of {len(roots)} calls")
    return ok


def main():
    arguments = [a for a in sys.argv[1:] if a != "--all"]
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        sys.exit(__doc__)
    try:
        ok = control() if arguments[0] == "--control" else judge(arguments[0], "--all" in sys.argv)
    except Failed as why:
        sys.exit(f"panics: {why}")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()

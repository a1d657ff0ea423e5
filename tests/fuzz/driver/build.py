"""Builds the program with all targets, with the compiler that the rest is built with.

rustc's stable releases have LLVM's coverage counters (-C passes=sancov-module) and the library of
AddressSanitizer; RUSTC_BOOTSTRAP=1 lets them be asked for. The standard library is not instrumented.
"""
import os
import subprocess
import sys
from collections import namedtuple

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(os.path.dirname(HERE))

# As cargo-fuzz has them: a counter for each edge, the table of their addresses, and what numbers and
# texts were compared with, which is how a fuzzer finds magic words.
COVERAGE = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
]
COMPARES = ["-Cllvm-args=-sanitizer-coverage-trace-compares"]
SANITIZER = ["-Zsanitizer=address"]

Target = namedtuple("Target", "name max_len")


def said(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def host():
    lines = said("rustc", "-vV").splitlines()
    return next(line.split()[1] for line in lines if line.startswith("host: "))


def has_sanitizer(triple):
    lib = os.path.join(said("rustc", "--print", "sysroot").strip(), "lib/rustlib", triple, "lib")
    names = os.listdir(lib) if os.path.isdir(lib) else []
    return any(name.endswith("_rt.asan.a") for name in names)


def cargo(flags, folder, *more):
    """Builds with these flags; gives the program's path."""
    triple = host()
    target = os.path.abspath(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")))
    target = os.path.join(target, folder)
    env = {**os.environ, "RUSTC_BOOTSTRAP": "1", "CARGO_TARGET_DIR": target}
    env["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join(flags)
    env.pop("RUSTFLAGS", None)
    # With a target named, scripts and macros that run while building are not instrumented.
    command = ["cargo", "build", "--locked", "--quiet", "--target", triple]
    command += ["--manifest-path", os.path.join(HERE, "Cargo.toml"), *more]
    subprocess.run(command, check=True, env=env)
    return os.path.join(target, triple, "debug", "fuzz")


def program():
    triple = host()
    if not triple.endswith("-linux-gnu"):
        print(f"SKIPPED: the fuzz targets are built for Linux only, not for {triple}")
        sys.exit(77)
    flags = COVERAGE + COMPARES
    if has_sanitizer(triple):
        flags = flags + SANITIZER
    else:
        print("SKIPPED: fuzzing with AddressSanitizer: this Rust has no library of it")
    return cargo(flags, "fuzz")


def targets(program, names):
    """Those that are named, or all; each also starved."""
    listed = subprocess.run(
        [program], check=True, capture_output=True, text=True, env={**os.environ, "TERN_FUZZ": "list"}
    ).stdout
    found = []
    for line in listed.splitlines():
        name, max_len = line.split()
        for variant, more in [(name, 0), (name + "-starved", 3)]:
            if not names or variant in names or name in names:
                found.append(Target(variant, int(max_len) + more))
    missing = [n for n in names if n not in {t.name for t in found}]
    if missing:
        sys.exit(f"no such target: {' '.join(missing)} (fuzz.py list)")
    return found

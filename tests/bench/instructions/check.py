#!/usr/bin/env python3
"""Counts instructions of parts of tern, and compares with the counts that are committed.

  tests/bench/instructions/check.py [--write]

--write   commits the counts of now to counts.json

Fails if a count has grown by more than 3 %. What a compiler makes of the same source differs from
version to version: with another rustc than the committed counts are of, growth is said, and fails
nothing. Exit status 77: something that this takes is not here.

TERN_TOOLS=DIR   where install.sh put gungraun-runner; default: $TERN_CACHE/tools
"""
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
COUNTS = HERE / "counts.json"
MOST = 1.03


def skip(why):
    print(f"SKIPPED: instruction counts: {why}")
    sys.exit(77)


def main():
    write = sys.argv[1:] == ["--write"]
    if sys.argv[1:] and not write:
        sys.exit(__doc__)
    if platform.machine() != "x86_64":
        skip(f"the committed counts are of x86_64, this is {platform.machine()}")
    if not shutil.which("valgrind"):
        skip("valgrind is missing (toolchains/install.sh --test)")
    cache = os.environ.get("TERN_CACHE", str(pathlib.Path.home() / ".cache/tern"))
    tools = pathlib.Path(os.environ.get("TERN_TOOLS", f"{cache}/tools"))
    runner = tools / "bin/gungraun-runner"
    if not runner.is_file():
        skip(f"{runner} is missing (toolchains/install.sh --test)")
    if "avx2" not in pathlib.Path("/proc/cpuinfo").read_text().split():
        skip("this machine has no AVX2, whose kernels the committed counts are of")

    command = ["cargo", "bench", "--locked", "--manifest-path", str(HERE.parent / "Cargo.toml")]
    command += ["--bench", "instructions", "--", "--output-format=json", "--nosummary"]
    run = subprocess.run(
        command,
        env={**os.environ, "GUNGRAUN_RUNNER": str(runner)},
        stdout=subprocess.PIPE,
        text=True,
    )
    if run.returncode:
        sys.exit(f"cargo bench failed: {run.returncode}\n{run.stdout}")
    counts = {}
    for line in run.stdout.splitlines():
        if line.startswith("{"):
            summary = json.loads(line)
            name = f"{summary['function_name']}/{summary['id']}"
            counts[name] = instructions(summary)
    if not counts:
        sys.exit(f"no counts in what gungraun says:\n{run.stdout}")
    rustc = subprocess.run(["rustc", "--version"], stdout=subprocess.PIPE, text=True).stdout.split()[1]
    if write:
        text = json.dumps({"rustc": rustc, "instructions": counts}, indent=1)
        COUNTS.write_text(text + "\n")
    before = json.loads(COUNTS.read_text())
    same = before["rustc"] == rustc
    print(f"{'':24} {'now':>14} {'committed':>14}")
    grown = []
    for name in sorted({**before["instructions"], **counts}):
        new, old = counts.get(name), before["instructions"].get(name)
        note = ""
        if new is None or old is None:
            note = "gone" if new is None else "new"
            grown.append(name)
        elif new > old * MOST:
            note = f"{new / old * 100 - 100:+.1f} %: too many"
            grown.append(name)
        elif new != old:
            note = f"{new / old * 100 - 100:+.1f} %"
        print(f"{name:24} {new or 0:14,} {old or 0:14,}  {note}")
    if not same:
        print(f"SKIPPED: instruction counts: rustc is {rustc}, the committed counts are of "
              f"{before['rustc']}: nothing was judged; check.py --write takes new ones")
    elif grown:
        sys.exit(f"differ by more than {MOST * 100 - 100:.0f} %: {', '.join(grown)}\n"
                 "if that is wanted: tests/bench/instructions/check.py --write")


def instructions(summary):
    """The count of executed instructions in gungraun's JSON."""
    for profile in summary["profiles"]:
        if profile["tool"] == "Callgrind":
            return profile["data"]["total"]["metrics"]["Ir"]["values"]["new"]
    raise ValueError("gungraun's summary has no count of callgrind")


main()

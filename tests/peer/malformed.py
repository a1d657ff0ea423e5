#!/usr/bin/env python3
"""Gives each file of the corpus of malformed models to tern and to Debian's llama.cpp.

    tests/peer/malformed.py [--write] [--corpus FOLDER] [--tern FILE]

Each file is loaded, a text is tokenized and four tokens are generated, by a process of its own:
`tern run`, and llama.cpp's `llama-completion` in the tree that tests/peer/tree.sh makes (which
needs root). A process that ends by a signal would have taken its host along: abort(), a failed
assertion, an exception that nobody caught, memory that is not the process's. One that takes more than
20 s of processor time hangs. How much memory a process took beyond the file and beyond what it takes
for the sound model that the broken ones were made of is looked at, too.

--write writes docs/malformed-models.md. The corpus is written by tests/malformed.rs, if --corpus does
not name one; `tern` is built as it is released, if --tern does not name one.
"""

import argparse
import collections
import datetime
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/malformed-models.md"
TEXT = "The t\U0001f980\u00e9 <0x0A> <eos>"
SECONDS = 20
BEYOND = 64 << 20
MOST = 2 << 30
# A file that is sound, which all memory is compared with; it is in the corpus.
SOUND = "good_llama"


def run(command, quiet=True):
    """How a process ended: its status or minus its signal, seconds of processor, KiB of memory, and for
    what it was ended, if it was; and what it said."""
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: (
                resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1)),
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
            ),
        )
        # wait4 has what this process alone took. One that sleeps for ever is ended as well, and one
        # that takes so much memory that others would suffer.
        ended = None
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if not ended and time.monotonic() - began > 15 * SECONDS:
                ended = "hang"
            if not ended and resident(process.pid) > MOST:
                ended = "memory"
            if ended:
                process.kill()
            time.sleep(0.002)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    seconds = usage.ru_utime + usage.ru_stime
    if seconds > SECONDS - 1 and process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        ended = "hang"
    return process.returncode, seconds, usage.ru_maxrss, ended, text


def resident(pid):
    """Bytes of memory of a process that runs."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def why(code, text):
    """Of a process that ended by a signal: which, and the line that says why."""
    name = signal.Signals(-code).name
    for line in text.splitlines():
        if any(word in line for word in ("GGML_ASSERT", "Assertion", "what():", "terminate called")):
            return name, line.strip()[:160]
    return name, ""


class Tally:
    def __init__(self):
        self.ends = collections.Counter()
        self.of_class = collections.defaultdict(collections.Counter)
        self.notes = []
        self.slowest = (0.0, "")
        self.largest = (0, "")

    def add(self, kind, name, sound, result, file_bytes, base):
        """`sound`: whether tern generates from the file; None: this is tern."""
        code, seconds, kib, ended, text = result
        beyond = (kib << 10) - base - file_bytes
        if ended:
            end = ended
        elif code < 0:
            end = "signal"
        elif beyond > BEYOND:
            end = "memory"
        elif code == 0:
            end = "accepted" if sound is False else "works"
        else:
            end = "refused" if sound else "error"
        self.ends[end] += 1
        self.of_class[kind][end] += 1
        self.slowest = max(self.slowest, (seconds, name))
        self.largest = max(self.largest, (beyond, name))
        if end in ("hang", "signal", "memory"):
            reason = why(code, text) if end == "signal" else (end, f"{seconds:.1f} s, {beyond >> 20} MiB")
            self.notes.append((kind, name, *reason))
        return end == "works"


def raw(folder, name):
    """A chat, where the file has a template."""
    has_template = b"tokenizer.chat_template" in (folder / f"{name}.gguf").read_bytes()
    return [] if has_template else ["--raw"]


def corpus(folder):
    if folder:
        return pathlib.Path(folder)
    folder = ROOT / "build/malformed-models"
    subprocess.run(
        ["cargo", "test", "--locked", "--test", "malformed", "written_for_other", "--", "--ignored"],
        cwd=ROOT,
        check=True,
        env=os.environ | {"TERN_CORPUS": str(folder)},
    )
    return folder


def tern(path):
    if path:
        return path
    subprocess.run(["cargo", "build", "--locked", "--release", "--bin", "tern"], cwd=ROOT, check=True)
    return str(pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/tern")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--corpus")
    parser.add_argument("--tern")
    parser.add_argument("--every", type=int, default=1, help="only each so many-th file")
    args = parser.parse_args()
    if os.environ.get("TERN_PEER_INSIDE") != "yes":
        tree = subprocess.run([ROOT / "tests/peer/tree.sh", "llama-completion"], check=True,
                              stdout=subprocess.PIPE, text=True).stdout.strip()
        folder, command = corpus(args.corpus), tern(args.tern)
        # Once more, where mounts are nobody else's, and end with this process.
        os.environ |= {"TERN_PEER_INSIDE": "yes", "TERN_PEER_TREE": tree}
        argv = ["unshare", "--mount", sys.executable, __file__, "--corpus", str(folder), "--tern", command]
        argv += ["--every", str(args.every)] + ["--write"] * args.write
        os.execvp("unshare", argv)
    tree, folder = pathlib.Path(os.environ["TERN_PEER_TREE"]), pathlib.Path(args.corpus)
    inside = tree / "corpus"
    inside.mkdir(exist_ok=True)
    (tree / "proc").mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", folder, inside], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", tree / "proc"], check=True)

    programs = {
        "tern": lambda name: [args.tern, "run", *raw(folder, name), "-m", str(folder / f"{name}.gguf"),
                              *"-n 4 -t 1 --ctx 128 -p".split(), TEXT],
        # It looks at a template whether it needs one or not.
        "llama.cpp": lambda name: ["chroot", str(tree), "llama-completion", "-m", f"/corpus/{name}.gguf",
                                   *"--no-warmup -no-cnv --simple-io".split(),
                                   *"-n 4 -t 1 -c 128 -b 128 -p".split(), TEXT],
    }
    version = subprocess.run(["chroot", tree, "dpkg-query", "-W", "llama.cpp-tools"],
                             stdout=subprocess.PIPE, text=True).stdout.split()[-1]
    rows = [line.split("\t") for line in (folder / "index.tsv").read_text().splitlines()][:: args.every]
    base, tallies = {}, {name: Tally() for name in programs}
    for program, command in programs.items():
        code, _, kib, _, text = run(command(SOUND))
        if code != 0:
            sys.exit(f"{program} does not run the sound model {SOUND}: {code}\n{text[-2000:]}")
        base[program] = kib << 10
    for n, (kind, name, _) in enumerate(rows):
        size, sound = (folder / f"{name}.gguf").stat().st_size, None
        for program, command in programs.items():
            sound = tallies[program].add(kind, name, sound, run(command(name)), size, base[program])
        if n % 100 == 99:
            print(n + 1, {p: dict(t.ends) for p, t in tallies.items()}, flush=True)
    page = report(rows, tallies, version)
    print(page)
    if args.write:
        PAGE.write_text(page)
    if any(tallies["tern"].ends[end] for end in ("signal", "hang", "memory")):
        sys.exit("tern ended otherwise than it should")


ENDS = ["signal", "hang", "memory", "accepted", "error", "works", "refused"]


def report(rows, tallies, version):
    lines = [
        "# Malformed models: tern and llama.cpp",
        "",
        "Written by `tests/peer/malformed.py --write`"
        f" on {datetime.date.today()}; llama.cpp is Debian's package `llama.cpp-tools` {version}.",
        "",
        f"{len(rows)} files, those of [tests/malformed.rs](../tests/malformed.rs), each loaded by a process"
        " of its own (`tern run`, `llama-completion`), which tokenizes a text and generates four tokens."
        " *signal*: the process ended by one, as its host would have: `abort()`, a failed assertion, an"
        " exception that nobody caught, memory that is not its own."
        f" *hang*: more than {SECONDS} s of processor time. *memory*: more than 64 MiB beyond the file and"
        " what a sound model takes; at 2 GiB a process is ended. *accepted*: it generates from a file that tern refuses; some of these"
        " are a matter of taste (a key that another engine does not read), most are broken."
        " *error*: it says so and ends. *works* and *refused*: of files from which tern generates; some"
        " have what llama.cpp does not support.",
        "",
        "| | " + " | ".join(ENDS) + " |",
        "|---|" + "---:|" * len(ENDS),
    ]
    for program, tally in tallies.items():
        lines.append(f"| {program} | " + " | ".join(str(tally.ends[end]) for end in ENDS) + " |")
    lines += ["", "By class: files that end the process, hang, or take too much memory.", "",
              "| class | files | " + " | ".join(tallies) + " |", "|---|" + "---:|" * (1 + len(tallies))]
    for kind in dict.fromkeys(row[0] for row in rows):
        n = sum(row[0] == kind for row in rows)
        bad = [sum(t.of_class[kind][end] for end in ENDS[:3]) for t in tallies.values()]
        lines.append(f"| {kind} | {n} | " + " | ".join(map(str, bad)) + " |")
    for program, tally in tallies.items():
        lines += ["", f"{program}: the slowest file took {tally.slowest[0]:.2f} s of processor time"
                      f" ({tally.slowest[1]}), the one with most memory {tally.largest[0] >> 20} MiB beyond"
                      f" ({tally.largest[1]})."]
        reasons = collections.defaultdict(list)
        for _, name, end, reason in tally.notes:
            reasons[(end, reason)].append(name)
        if reasons:
            lines += ["", f"How {program} ended, and with how many files:", "", "| files | how | for instance |",
                      "|---:|---|---|"]
        for (end, reason), names in sorted(reasons.items(), key=lambda r: -len(r[1])):
            said = f"{end}: {reason}" if reason else end
            lines.append(f"| {len(names)} | {said.replace('|', '/')} | {', '.join(names[:3])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

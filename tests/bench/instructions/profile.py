#!/usr/bin/env python3
"""Where instructions go: profile.py MORE [LESS] [--per N] [--nm NM] [--depth]

MORE and LESS are what count.c writes with `blocks=`: of a long run, and of a short run of the same
program. Prints the instructions by function: the difference of the two, divided by N. Symbols are
those of the files that were mapped, by nm; what lies in a file without symbols is named by its file.
"""
import argparse
import bisect
import collections
import re
import subprocess


def read(path):
    """The counts by address, and the mapped files as (start, end, offset, path)."""
    counts, maps = collections.Counter(), []
    with open(path) as lines:
        for line in lines:
            words = line.split()
            if len(words) == 2 and "-" not in words[0]:
                counts[int(words[0], 16)] += int(words[1])
            elif len(words) >= 6 and words[5].startswith("/"):
                start, end = (int(word, 16) for word in words[0].split("-"))
                maps.append((start, end, int(words[2], 16), words[5]))
    return counts, maps


class Symbols:
    """The functions of one file."""

    def __init__(self, nm, path):
        self.names, self.starts = {}, []
        for option in ([], ["-D"]):
            run = subprocess.run([nm, *option, "-C", path], capture_output=True, text=True)
            for line in run.stdout.splitlines():
                found = re.match(r"([0-9a-f]+) [tTwWiV] (.+)", line)
                if found and not found[2].startswith("$"):
                    self.names.setdefault(int(found[1], 16), found[2])
        self.starts = sorted(self.names)
        # Where the segments of code are in the file, and where they want to be in memory.
        headers = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True).stdout
        segments = re.findall(r"LOAD +(0x\S+) (0x\S+) 0x\S+ (0x\S+)", headers)
        self.segments = [tuple(int(word, 16) for word in segment) for segment in segments]

    def name(self, offset):
        for start, address, size in self.segments:
            if start <= offset < start + size:
                at = bisect.bisect_right(self.starts, offset - start + address)
                return self.names[self.starts[at - 1]] if at else None
        return None


def by_function(path, nm, files):
    counts, maps = read(path)
    out = collections.Counter()
    for address, n in counts.items():
        for start, end, offset, file in maps:
            if start <= address < end:
                if file not in files:
                    files[file] = Symbols(nm, file)
                name = files[file].name(address - start + offset)
                short = file.rsplit("/", 1)[-1]
                out[f"{short}: {name or '?'}"] += n
                break
        else:
            out["not mapped from a file"] += n
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("more")
    parser.add_argument("less", nargs="?")
    parser.add_argument("--per", type=float, default=1.0)
    parser.add_argument("--nm", default="aarch64-linux-gnu-nm")
    parser.add_argument("--top", type=int, default=25)
    args = parser.parse_args()
    files = {}
    more = by_function(args.more, args.nm, files)
    if args.less:
        more.subtract(by_function(args.less, args.nm, files))
    total = sum(more.values())
    print(f"{total / args.per:16,.0f}  100.0 %  all")
    for name, n in more.most_common(args.top):
        print(f"{n / args.per:16,.0f}  {n / total * 100:5.1f} %  {name}")


main()

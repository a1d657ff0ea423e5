#!/usr/bin/env python3
"""Builds the fuzz targets, and runs them.

  fuzz.py check [TARGET...]                ten seconds each from the committed corpus; exits 1 if one
                                           finds something: the step `fuzz` of make test-long
  fuzz.py campaign [--minutes N] [--jobs N] [TARGET...]
                                           all in turns, the least fuzzed first, from a corpus that grows
                                           in the cache; can be stopped and started again
  fuzz.py minimise [TARGET...]             the committed corpus anew, of what the campaign found
  fuzz.py summary                          docs/fuzzing.md anew, with what the campaign has logged since
  fuzz.py coverage                         docs/fuzzing-coverage.md anew: edges of the parsers that the
                                           committed corpus takes
  fuzz.py repeat TARGET FILE               one input, as after a finding
  fuzz.py list                             the targets

A TARGET is a name, for both of its variants, or NAME-starved, where an allocation fails. The campaign's
corpus, its findings and its log lie in $TERN_CACHE/fuzz, which is ~/.cache/tern/fuzz if that is not set.
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "driver"))
import build
import campaign
import corpus
import coverage
import summary


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        choices=["check", "campaign", "minimise", "summary", "coverage", "repeat", "list"],
    )
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--minutes", type=float, default=60, help="how long a campaign lasts")
    parser.add_argument("--jobs", type=int, default=2, help="targets that run at a time")
    parser.add_argument("--seconds", type=int, default=10, help="of each target in a check")
    parser.add_argument("--turn", type=int, default=120, help="seconds of each turn of a campaign")
    args = parser.parse_args()

    if args.what == "summary":
        return summary.write()
    if args.what == "coverage":
        return coverage.report()
    program = build.program()
    if args.what == "repeat":
        return campaign.repeat(program, *args.targets)
    targets = build.targets(program, args.targets)
    if args.what == "list":
        for target in targets:
            print(target.name)
        return 0
    if args.what == "check":
        return campaign.check(program, targets, args.seconds, args.jobs)
    if args.what == "minimise":
        return corpus.minimise(program, targets)
    return campaign.campaign(program, targets, args.minutes * 60, args.turn, args.jobs)


if __name__ == "__main__":
    sys.exit(main())

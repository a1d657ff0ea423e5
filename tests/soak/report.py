#!/usr/bin/env python3
"""Writes docs/soak.md from what a soak left: report.py [SAMPLES.jsonl [WORDS.txt]]"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
samples_path = sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/soak/soak.jsonl"
words_path = sys.argv[2] if len(sys.argv) > 2 else ROOT / "build/soak/soak.txt"
head, *samples, end = [json.loads(line) for line in open(samples_path)]
if "verdict" not in end:
    sys.exit(f"{samples_path}: the soak is not through: its last sample is of second {end['seconds']}")
words = [line.rstrip() for line in open(words_path)]
words = [line for line in words if re.match(r"\d.* minutes, |answers|after|descriptors|threads|mappings|bytes|VmHWM|VmRSS|a token", line)]

page = f"""# A soak: {end['minutes']:.0f} minutes

Written by `tests/soak/report.py` from the samples of `make soak MINUTES={end['minutes']:.0f}`; [tests/soak](../tests/soak) says what the turns are and what is judged.
Began {head['began']}, {head['system']}, {head['device']}, {head['cores']} cores, beside other work; tern {head['tern']}. Verdict: **{end['verdict']}**.

```
{chr(10).join(words)}
```

| minute | VmRSS, KiB | VmHWM, KiB | held by malloc, bytes | descriptors | threads | mappings | turns | answers that changed | evals stopped |
|---|---|---|---|---|---|---|---|---|---|
"""
n_rows = 24
for i in range(n_rows + 1):
    s = samples[i * (len(samples) - 1) // n_rows]
    cells = [f"{s['seconds'] / 60:.1f}"]
    cells += [s[k] for k in ("rss_kib", "hwm_kib", "held_bytes", "descriptors", "threads", "mappings", "turns", "wrong", "stopped")]
    page += "| " + " | ".join(map(str, cells)) + " |\n"
(ROOT / "docs/soak.md").write_text(page)
print(f"docs/soak.md: {end['verdict']}")
sys.exit(end["verdict"] != "good")

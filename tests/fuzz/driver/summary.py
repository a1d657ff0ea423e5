"""docs/fuzzing.md: what campaigns have come to, from a committed list of their turns, added up."""
import json
import os

import build
import campaign


PAGE = os.path.join(build.ROOT, "docs", "fuzzing.md")
TURNS = os.path.join(build.HERE, "campaign.jsonl")
GOAL_HOURS = 2


def merged():
    """The committed list, with what the log has since: a line for each target, day and commit."""
    lines = {}

    def add(entry):
        key = (entry["when"][:10], entry["commit"], entry["target"])
        sum_ = lines.setdefault(key, {**entry, "when": key[0], "core_seconds": 0, "executions": 0, "findings": 0})
        sum_["core_seconds"] = round(sum_["core_seconds"] + entry["core_seconds"], 1)
        sum_["executions"] += entry["executions"]
        found = entry["findings"]
        sum_["findings"] += found if isinstance(found, int) else int(entry["status"] != 0)
        sum_["edges"], sum_["inputs"] = entry["edges"], entry["inputs"]
        sum_.pop("status", None)

    if os.path.exists(TURNS):
        with open(TURNS) as file:
            for line in file:
                add(json.loads(line))
    for entry in campaign.logged():
        add(entry)
    return [lines[key] for key in sorted(lines)]


def write():
    lines = merged()
    with open(TURNS, "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    # What was added is not added again.
    if os.path.exists(campaign.log_path()):
        n = 1
        while os.path.exists(f"{campaign.log_path()}.{n}"):
            n += 1
        os.rename(campaign.log_path(), f"{campaign.log_path()}.{n}")
    targets = {}
    for line in lines:
        of = targets.setdefault(line["target"], {"hours": 0, "executions": 0, "findings": 0})
        of["hours"] += line["core_seconds"] / 3600
        of["executions"] += line["executions"]
        of["findings"] += line["findings"]
        of["edges"], of["inputs"], of["last"] = line["edges"], line["inputs"], line["when"]
    rows = [
        f"| `{name}` | {of['hours']:.3f} | {of['executions']:,} | {of['edges']:,} | "
        f"{of['inputs']:,} | {of['findings']} | {of['last']} |"
        for name, of in sorted(targets.items())
    ]
    hours = sum(of["hours"] for of in targets.values())
    executions = sum(of["executions"] for of in targets.values())
    done = sum(of["hours"] >= GOAL_HOURS for of in targets.values())
    dates = [line["when"] for line in lines]
    table = "\n".join(
        [
            f"From {min(dates)} to {max(dates)}: {hours:.2f} core-hours, {executions:,} executions. "
            f"{done} of {len(targets)} targets have the {GOAL_HOURS} core-hours that each is to have.",
            "",
            "| target | core-hours | executions | edges | inputs | turns that ended with a finding | last |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ]
    )
    with open(PAGE) as file:
        before, rest = file.read().split("<!-- campaign -->\n", 1)
        _, after = rest.split("<!-- end -->\n", 1)
    with open(PAGE, "w") as file:
        file.write(f"{before}<!-- campaign -->\n{table}\n<!-- end -->\n{after}")
    print(table)
    return 0

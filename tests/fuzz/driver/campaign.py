"""Runs targets: a while each from the committed corpus, or for hours in turns."""
import datetime
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time

import build
import corpus

# What is too much: bytes of the process, with what AddressSanitizer takes; and bytes of one allocation.
LIMITS = ["-rss_limit_mb=2048", "-malloc_limit_mb=80"]
# Seconds of one input, by the clock: long enough for a machine that does much else. A campaign may have
# the least priority there is, and waits.
CHECK_HANG, CAMPAIGN_HANG = "-timeout=120", "-timeout=1200"


class Run:
    """One target for some seconds."""

    def __init__(self, program, target, folder, seconds, findings, more=()):
        self.target, self.findings = target, findings
        os.makedirs(findings, exist_ok=True)
        before = set(os.listdir(findings))
        # Files that targets make lie in memory where that is possible, and are gone afterwards.
        shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="tern-fuzz-", dir=shm) as temporary:
            env = {**os.environ, "TERN_FUZZ": target.name, "TMPDIR": temporary}
            # Freed memory is watched for a while, not for ever; leaks are looked for at the end and
            # whenever libFuzzer suspects one.
            env.setdefault("RUST_BACKTRACE", "0")
            env["ASAN_OPTIONS"] = "quarantine_size_mb=16:allocator_may_return_null=1:" + os.environ.get(
                "ASAN_OPTIONS", ""
            )
            command = [program, f"-max_total_time={seconds}", f"-max_len={target.max_len}"]
            command += [*LIMITS, "-print_final_stats=1", f"-artifact_prefix={findings}/"]
            command += ["-reload=0", *more, folder]
            out = os.path.join(temporary, "log")
            with open(out, "wb") as log:
                process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=temporary)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            with open(out, errors="replace") as log:
                self.said = log.read()
        self.status = process.returncode
        self.seconds = usage.ru_utime + usage.ru_stime
        self.n_inputs = len(os.listdir(folder))
        self.found = sorted(set(os.listdir(findings)) - before)

    def number(self, pattern):
        found = re.findall(pattern, self.said)
        return int(found[-1]) if found else 0

    @property
    def executions(self):
        return self.number(r"stat::number_of_executed_units: (\d+)") or self.number(r"#(\d+)\s")

    @property
    def edges(self):
        return self.number(r"\bcov: (\d+)")

    @property
    def features(self):
        return self.number(r"\bft: (\d+)")

    def line(self):
        state = "ok" if self.status == 0 else "FOUND " + " ".join(self.found or ["?"])
        return (
            f"{self.target.name:20} {self.executions:9} executions {self.edges:6} edges "
            f"{self.features:6} features {self.n_inputs:5} inputs {self.seconds:6.1f} s  {state}"
        )

    def reason(self):
        """What libFuzzer, a sanitizer or a panic said, without the pages of its report."""
        lines = self.said.splitlines()
        wanted = re.compile(r"panicked|ERROR|SUMMARY|Error|memory|assert|left:|right:|found|expected")
        at = next((i for i, line in enumerate(lines) if "panicked" in line or "ERROR" in line), None)
        if at is None:
            return "\n".join(lines[-30:])
        return "\n".join(lines[at : at + 40] + [line for line in lines[at + 40 :] if wanted.search(line)][:10])


def each(targets, jobs, work):
    """Calls `work` with each, so many at a time."""
    left, lock = list(reversed(targets)), threading.Lock()

    def take():
        while True:
            with lock:
                if not left:
                    return
                target = left.pop()
            work(target)

    threads = [threading.Thread(target=take) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def check(program, targets, seconds, jobs):
    findings = os.path.join(build.ROOT, "build", "fuzz-findings")
    runs = []

    def work(target):
        with tempfile.TemporaryDirectory(prefix="tern-fuzz-corpus-") as folder:
            corpus.unpack(program, target, folder)
            n = len(os.listdir(folder))
            # The same numbers each time: what the campaign is for is not this one's.
            run = Run(program, target, folder, seconds, os.path.join(findings, target.name), ["-seed=1", CHECK_HANG])
            run.n_inputs = n
        runs.append(run)
        print(run.line(), flush=True)

    each(targets, jobs, work)
    for run in runs:
        if run.status != 0:
            print(f"---- {run.target.name}: {run.findings}/{' '.join(run.found)}\n{run.reason()}")
    total = sum(run.executions for run in runs)
    bad = sum(run.status != 0 for run in runs)
    print(f"{len(runs)} targets, {total} executions, {bad} with a finding")
    return 1 if bad else 0


def log_path():
    return os.path.join(corpus.cache(), "log.jsonl")


def logged():
    if not os.path.exists(log_path()):
        return []
    with open(log_path()) as log:
        return [json.loads(line) for line in log]


def commit():
    command = ["git", "-C", build.ROOT, "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def campaign(program, targets, seconds, turn, jobs):
    # A copy: what is built meanwhile is for the next campaign.
    os.makedirs(corpus.cache(), exist_ok=True)
    own = os.path.join(corpus.cache(), f"fuzz-{os.getpid()}")
    shutil.copy2(program, own)
    spent = {target.name: 0.0 for target in targets}
    for entry in logged():
        if entry["target"] in spent:
            spent[entry["target"]] += entry["core_seconds"]
    end, lock, built = time.monotonic() + seconds, threading.Lock(), commit()
    running = set()

    def work(_):
        while time.monotonic() < end:
            with lock:
                free = [target for target in targets if target.name not in running]
                target = min(free, key=lambda target: spent[target.name])
                running.add(target.name)
            folder = corpus.grown(own, target)
            findings = os.path.join(corpus.cache(), "findings", target.name)
            left = int(min(turn, max(10, end - time.monotonic())))
            run = Run(own, target, folder, left, findings, ["-use_value_profile=1", CAMPAIGN_HANG])
            entry = {
                "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "commit": built,
                "target": target.name,
                "core_seconds": round(run.seconds, 1),
                "executions": run.executions,
                "edges": run.edges,
                "inputs": run.n_inputs,
                "status": run.status,
                "findings": run.found,
            }
            with lock:
                spent[target.name] += run.seconds
                running.discard(target.name)
                with open(log_path(), "a") as log:
                    log.write(json.dumps(entry) + "\n")
                print(run.line(), flush=True)
                if run.status != 0:
                    for name in run.found or ["unnamed"]:
                        with open(os.path.join(findings, name + ".txt"), "w") as file:
                            file.write(run.said[-20000:])
                    print(run.reason(), flush=True)

    try:
        each(list(range(jobs)), jobs, work)
    finally:
        os.remove(own)
    return 0


def repeat(program, name, path):
    target = build.targets(program, [name])[0]
    env = {**os.environ, "TERN_FUZZ": name, "RUST_BACKTRACE": "1"}
    return subprocess.run([program, *LIMITS, CHECK_HANG, f"-max_len={target.max_len}", path], env=env).returncode

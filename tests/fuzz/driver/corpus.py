"""Corpora: the committed ones, an archive for each target, and those of the campaign."""
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile

import build

COMMITTED = os.path.join(build.HERE, "corpus")
# A target's archive has at most so many bytes: together at most 2 MB.
MOST_BYTES = 75_000


def cache():
    root = os.environ.get("TERN_CACHE", os.path.expanduser("~/.cache/tern"))
    return os.path.join(root, "fuzz")


def archive(target):
    return os.path.join(COMMITTED, target.name + ".tar.xz")


def unpack(program, target, folder):
    """Puts the committed corpus into a folder, or the seeds where there is none."""
    os.makedirs(folder, exist_ok=True)
    if os.path.exists(archive(target)):
        with tarfile.open(archive(target)) as tar:
            tar.extractall(folder, filter="data")
    else:
        seeds(program, target, folder)


def seeds(program, target, folder):
    env = {**os.environ, "TERN_FUZZ": target.name, "TERN_FUZZ_SEEDS": folder}
    subprocess.run([program], check=True, env=env)
    if target.name.endswith("-starved"):
        # Which allocation fails is what comes last.
        for i, name in enumerate(sorted(os.listdir(folder))):
            with open(os.path.join(folder, name), "ab") as seed:
                seed.write(bytes([(i * 7) % 61, 0, i % 2]))


def pack(folder, to):
    """Writes an archive that depends on the inputs alone: named by their digests, without dates."""
    inputs = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            data = file.read()
        inputs[hashlib.sha256(data).hexdigest()[:16]] = data
    # The shortest first, so that what does not fit is what is long.
    chosen, size = [], None
    order = sorted(inputs, key=lambda name: (len(inputs[name]), name))
    while True:
        chosen = order[: size or len(order)]
        written = io.BytesIO()
        with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name in sorted(chosen, key=lambda name: (len(inputs[name]), inputs[name])):
                info = tarfile.TarInfo(name)
                info.size = len(inputs[name])
                tar.addfile(info, io.BytesIO(inputs[name]))
        packed = lzma.compress(written.getvalue(), preset=9 | lzma.PRESET_EXTREME)
        if len(packed) <= MOST_BYTES:
            break
        size = len(chosen) * MOST_BYTES // len(packed) * 99 // 100
    with open(to, "wb") as file:
        file.write(packed)
    return len(chosen), len(inputs), len(packed)


def minimise(program, targets):
    """The committed corpus anew: of the seeds, of what was committed and of what the campaign found, a
    set of inputs that takes all their edges."""
    os.makedirs(COMMITTED, exist_ok=True)
    for target in targets:
        with tempfile.TemporaryDirectory(prefix="tern-fuzz-") as temporary:
            fresh, committed, seed = (os.path.join(temporary, n) for n in ["new", "old", "seeds"])
            for folder in [fresh, seed]:
                os.makedirs(folder)
            seeds(program, target, seed)
            unpack(program, target, committed)
            found = os.path.join(temporary, "found")
            copy(os.path.join(cache(), "corpus", target.name), found)
            folders = [seed, committed, found]
            env = {**os.environ, "TERN_FUZZ": target.name, "TMPDIR": temporary}
            env["ASAN_OPTIONS"] = "quarantine_size_mb=16:allocator_may_return_null=1"
            command = [program, "-set_cover_merge=1", "-rss_limit_mb=2048", "-timeout=60"]
            command += [f"-max_len={target.max_len}", fresh, *folders]
            done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=temporary)
            if done.returncode != 0:
                print(done.stderr[-2000:])
                return 1
            kept, n, size = pack(fresh, archive(target))
            print(f"{target.name}: {kept} of {n} inputs, {size} bytes", flush=True)
    return 0


def copy(folder, to):
    """Copies a corpus that a campaign may be changing: what is gone meanwhile is another input now."""
    os.makedirs(to)
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        try:
            shutil.copy2(os.path.join(folder, name), to)
        except FileNotFoundError:
            pass


def grown(program, target):
    """The campaign's corpus of a target, begun with the committed one."""
    folder = os.path.join(cache(), "corpus", target.name)
    if not os.path.isdir(folder):
        begun = folder + ".begun"
        shutil.rmtree(begun, ignore_errors=True)
        unpack(program, target, begun)
        os.rename(begun, folder)
    return folder

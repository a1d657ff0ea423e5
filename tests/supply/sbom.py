#!/usr/bin/env python3
"""Holds a bill of materials against the schema of CycloneDX, and against what was linked.

    sbom.py BILL.cdx.json CARGO_OUTPUT OBJECT

CARGO_OUTPUT is the folder that cargo put libraries in (.../release), OBJECT what was linked.
Exit status 77: PyPI's cyclonedx-python-lib is missing.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def locked():
    text = (ROOT / "Cargo.lock").read_text()
    found = {}
    for package in text.split("[[package]]")[1:]:
        fields = dict(re.findall(r'(\w+) = "([^"]*)"', package))
        found[fields["name"], fields["version"]] = fields.get("checksum")
    return found


def main():
    try:
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
    except ImportError as missing:
        print("SKIPPED: %s (toolchains/install.sh --test)" % missing)
        return 77
    bill, output, linked_object = map(Path, sys.argv[1:])
    text = bill.read_text()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, "%s: not CycloneDX 1.6: %s" % (bill, error)
    document = json.loads(text)

    components = {c["name"]: c for c in document["components"]}
    crates = {n: c for n, c in components.items() if c.get("purl", "").startswith("pkg:cargo/")}
    checksums = locked()
    for name, crate in crates.items():
        (digest,) = crate["hashes"]
        assert digest["content"] == checksums[name, crate["version"]], "%s: its hash" % name
        assert crate["licenses"], "%s: no licence" % name

    # Every library that rustc had to link is listed as linked, and no other.
    required = {n.replace("-", "_") for n, c in crates.items() if c["scope"] == "required"}
    rlibs = {re.sub(r"^lib|-[0-9a-f]{16}$", "", f.stem) for f in (output / "deps").glob("*.rlib")}
    rlibs.discard("tern")
    assert rlibs and required == rlibs, "linked %s, the bill has %s" % (rlibs, required)
    # And every crate that the object's debug information names, in its version.
    inside = set(re.findall(rb"/tern/deps/([A-Za-z0-9_-]+?)-([0-9]+\.[0-9][A-Za-z0-9.+-]*)/",
                            linked_object.read_bytes()))
    assert inside, "%s names no crate: is there no debug information?" % linked_object
    for name, version in inside:
        crate = crates.get(name.decode())
        assert crate and crate["version"] == version.decode(), "%s %s is not listed" % (name, version)

    (std,) = [c for n, c in components.items() if n == "rust-std"]
    (rustc,) = [c for n, c in components.items() if n == "rustc"]
    assert std["version"] == rustc["version"], "rust-std and rustc differ"
    assert std["components"], "no crate of the standard library was found in the object"

    # Whatever is listed stands in the graph, and the graph names nothing else.
    subject = document["metadata"]["component"]["bom-ref"]
    refs = {subject} | {c["bom-ref"] for c in crates.values()} | {std["bom-ref"]}
    inner = {c["bom-ref"] for c in std["components"]}
    graph = {entry["ref"]: set(entry["dependsOn"]) for entry in document["dependencies"]}
    assert set(graph) == refs, "the graph has %s" % sorted(set(graph) ^ refs)
    assert set().union(*graph.values()) <= refs | inner
    reached, left = set(), [subject]
    while left:
        ref = left.pop()
        if ref not in reached:
            reached.add(ref)
            left.extend(graph.get(ref, ()))
    assert reached == refs | inner, "nothing needs %s" % sorted((refs | inner) - reached)
    print("%s: %d crates linked, %d of the standard library, %d that only the build runs"
          % (bill.name, len(required), len(inner), len(crates) - len(required)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

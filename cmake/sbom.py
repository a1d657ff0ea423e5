#!/usr/bin/env python3
"""Writes a bill of materials, in CycloneDX 1.6, of what the build links and what it was built with.

    sbom.py --metadata FILE --lock Cargo.lock --object FILE --rustc FILE --target TRIPLE
            --profile NAME --features LIST --compiler TEXT --kind library|application --output FILE

The file of --metadata is what `cargo metadata --filter-platform TRIPLE` says, that of --rustc what
`rustc -vV` says, that of --object what was linked. Nothing is downloaded, and nothing but Python's
standard library is needed. The same inputs give the same bytes: there is no time in it unless
SOURCE_DATE_EPOCH says one, and its serial number is made from all else that it says.

The crates of Rust's own standard library are in no Cargo.lock. They are linked all the same: the
names and versions are those of the folders that debug information in the object names.
"""

import argparse
import datetime
import json
import os
import re
import uuid

SPEC = "1.6"
# /rust/deps/NAME-VERSION/ in the releases of the Rust project, .../vendor/NAME-VERSION/ in Debian's
STD_CRATE = re.compile(rb"/(?:rust/deps|vendor)/([A-Za-z0-9_-]+?)-([0-9]+\.[0-9]+\.[0-9]+[A-Za-z0-9.+-]*)/")
LICENCES = {"MIT/Apache-2.0": "MIT OR Apache-2.0", "Unlicense/MIT": "Unlicense OR MIT"}


def checksums(lock):
    """The SHA-256 of each crate's archive, by name and version."""
    found = {}
    for package in lock.split("[[package]]")[1:]:
        fields = dict(re.findall(r'^(name|version|checksum) = "([^"]*)"$', package, re.MULTILINE))
        if "checksum" in fields:
            found[fields["name"], fields["version"]] = fields["checksum"]
    return found


def purl(name, version):
    return "pkg:cargo/%s@%s" % (name, version.replace("+", "%2B"))


def reachable(metadata):
    """The packages that are linked, and those that only run while others are compiled; and what each
    needs of them."""
    packages = {p["id"]: p for p in metadata["packages"]}
    nodes = {n["id"]: n for n in metadata["resolve"]["nodes"]}
    linked, tools, needs = set(), set(), {}
    left = [(metadata["resolve"]["root"], False)]
    while left:
        node, runs = left.pop()
        runs = runs or any("proc-macro" in t["kind"] for t in packages[node]["targets"])
        if node in (tools if runs else linked):
            continue
        (tools if runs else linked).add(node)
        for need in nodes[node]["deps"]:
            kinds = {kind["kind"] for kind in need["dep_kinds"]}
            if kinds & {None, "build"}:
                needs.setdefault(node, set()).add(need["pkg"])
                left.append((need["pkg"], runs or None not in kinds))
    return packages, linked, tools - linked, needs


def component(package, sums, scope):
    name, version = package["name"], package["version"]
    entry = {
        "type": "library",
        "bom-ref": purl(name, version),
        "name": name,
        "version": version,
        "scope": scope,
    }
    if package.get("description"):
        entry["description"] = " ".join(package["description"].split())
    if (name, version) in sums:
        entry["hashes"] = [{"alg": "SHA-256", "content": sums[name, version]}]
    licence = package.get("license")
    if licence:
        entry["licenses"] = [{"expression": LICENCES.get(licence, licence)}]
    entry["purl"] = purl(name, version)
    if package.get("repository"):
        entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return entry


def standard_library(rustc, linked_object):
    """Rust's standard library, with the crates in it."""
    version = re.search(r"^release: (\S+)", rustc, re.MULTILINE).group(1)
    commit = re.search(r"^commit-hash: ([0-9a-f]+)", rustc, re.MULTILINE)
    with open(linked_object, "rb") as file:
        inside = sorted(set(STD_CRATE.findall(file.read())))
    std = {
        "type": "library",
        "bom-ref": "rust-std@" + version,
        "name": "rust-std",
        "version": version,
        "scope": "required",
        "description": "The standard library of Rust, as it comes with the compiler",
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
        "purl": "pkg:generic/rust-std@" + version,
    }
    if commit:
        std["properties"] = [{"name": "tern:commit", "value": commit.group(1)}]
    std["components"] = [
        {
            "type": "library",
            "bom-ref": "rust-std/" + purl(name.decode(), number.decode()),
            "name": name.decode(),
            "version": number.decode(),
            "scope": "required",
            "purl": purl(name.decode(), number.decode()),
        }
        for name, number in inside
    ]
    return std, version


def bill(args):
    with open(args.metadata, encoding="utf-8") as file:
        packages, linked, tools, needs = reachable(json.load(file))
    with open(args.lock, encoding="utf-8") as file:
        sums = checksums(file.read())
    root = next(p for p in packages.values() if p["name"] == "tern" and p["source"] is None)
    version = root["version"]
    subject = "pkg:generic/%s@%s" % ("libtern" if args.kind == "library" else "tern", version)
    with open(args.rustc, encoding="utf-8") as file:
        std, rust_version = standard_library(file.read(), args.object)
    order = sorted(linked | tools, key=lambda p: (packages[p]["name"], packages[p]["version"]))
    crates = [
        component(packages[p], sums, "required" if p in linked else "excluded")
        for p in order
        if p != root["id"]
    ]
    compilers = [
        {
            "type": "application",
            "bom-ref": "%s@%s" % (name, number),
            "name": name,
            "version": number,
            "scope": "excluded",
            "description": what,
        }
        for name, number, what in (
            ("rustc", rust_version, "Compiled the crates"),
            (*args.compiler.split(" ", 1), "Linked what the crates were compiled to"),
        )
    ]
    reference = {p: purl(packages[p]["name"], packages[p]["version"]) for p in order}
    reference[root["id"]] = subject
    graph = [
        {"ref": reference[p], "dependsOn": sorted({reference[n] for n in needs.get(p, ())})}
        for p in order
    ]
    for entry in graph:
        if entry["ref"] == subject:
            entry["dependsOn"] = sorted(entry["dependsOn"] + [std["bom-ref"]])
    inner = sorted(c["bom-ref"] for c in std["components"])
    graph.append({"ref": std["bom-ref"], "dependsOn": inner})
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-%s.schema.json" % SPEC,
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "component": {
                "type": args.kind,
                "bom-ref": subject,
                "name": "libtern" if args.kind == "library" else "tern",
                "version": version,
                "description": root["description"],
                "licenses": [{"expression": root["license"]}],
                "purl": subject,
                "properties": [
                    {"name": "tern:features", "value": args.features},
                    {"name": "tern:profile", "value": args.profile},
                    {"name": "tern:target", "value": args.target},
                ],
            },
        },
        "components": crates + [std] + compilers,
        "dependencies": sorted(graph, key=lambda entry: entry["ref"]),
    }
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch:
        time = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
        document["metadata"]["timestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ")
    said = json.dumps(document, sort_keys=True)
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, said).urn
    return document


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    for name in ("metadata", "lock", "object", "rustc", "target", "profile", "compiler", "output"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--features", default="")
    parser.add_argument("--kind", choices=("library", "application"), required=True)
    args = parser.parse_args()
    text = json.dumps(bill(args), indent=2, ensure_ascii=False) + "\n"
    with open(args.output, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()

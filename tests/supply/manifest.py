#!/usr/bin/env python3
"""Checks a model against its manifest, by hashlib and PyPI's cryptography alone.

    manifest.py MODEL MANIFEST PUBLIC_KEY_IN_HEX

Exit status 77: cryptography is missing.
"""

import hashlib
import sys


def main():
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as missing:
        print("%s (toolchains/install.sh --test)" % missing)
        return 77
    model, manifest, key = sys.argv[1:]
    with open(model, "rb") as file:
        data = file.read()
    with open(manifest, "rb") as file:
        text = file.read()
    signed = text[: text.index(b"\nsignature ") + 1]
    lines = text.decode().split("\n")
    signatures = dict(line.split()[1:] for line in lines if line.startswith("signature "))
    # Raises if it is not the key's.
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
        bytes.fromhex(signatures[key]), signed
    )
    assert lines[0] == "tern-manifest 1" and lines[1].startswith("version "), lines[:2]
    assert lines[2] == "bytes %d" % len(data), lines[2]
    at = 0
    for line in signed.decode().split("\n")[3:-1]:
        word, length, digest, name = line.split(" ", 3)
        assert word == "part", line
        part = data[at : at + int(length)]
        assert hashlib.sha256(part).hexdigest() == digest, name
        at += int(length)
    assert at == len(data), "%d bytes are in no part" % (len(data) - at)
    print("as signed")
    return 0


if __name__ == "__main__":
    sys.exit(main())

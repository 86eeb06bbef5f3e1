"""Ways to break a file: as bytes, as a tree of values, as XML, as YAML, and inside an archive."""

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

import yaml

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = [0, 1, -1, 2, 0.5, -0.0, 127, 255, 65536, 2**31 - 1, 2**31, -(2**31), 2**53 + 1, 2**63, 10**40, 10**400]
FLOATS = [1e-320, 1e18, 1e30, 1e300, float("inf"), float("-inf"), float("nan")]
TEXTS = ["", " ", "\n", ".", "a", "../../x", "/etc/passwd", "a\0b", "\ud800", "\x1b[31m", "é" * 50, "N/A 7", "x" * 5000]
OTHERS = [None, True, False, [], {}, [[]], [None] * 4, {"id": 1}, [1, 2, 3, 4], [1e300] * 4]
VALUES = [*NUMBERS, *FLOATS, *TEXTS, *OTHERS]
LITERALS = [b"1e999", b"NaN", b"-Infinity", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"\xef\xbb\xbf", b"\xff"]


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to four changes, half of them in the first 64 bytes, which contain headers."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        size = len(changed)
        place = rng.randrange(min(size, 64) if rng.random() < 0.5 else size) if size else 0
        span = rng.choice([1, 2, 4, 8, 64, 1024])
        kind = rng.randrange(8)
        if kind == 0 and size:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[place:]
        elif kind == 2:
            del changed[place : place + span]
        elif kind == 3:
            changed[place:place] = rng.randbytes(span)
        elif kind == 4:
            changed[place:place] = changed[place : place + span] * rng.choice([1, 2, 50])
        elif kind == 5:
            number = rng.choice([0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 30000, 2**40, 2**62])
            width = rng.choice([1, 2, 4, 8])
            number %= 256**width
            changed[place : place + width] = number.to_bytes(width, rng.choice(["big", "little"]))
        elif kind == 6:
            start = rng.randrange(size) if size else 0
            changed[place : place + span] = changed[start : start + span]
        else:
            changed[place : place + span] = rng.choice(LITERALS)
    return bytes(changed)


def mutate_tree(rng: random.Random, value: Any) -> Any:
    """Replace, move, repeat or remove some values of a tree of dicts and lists. May change `value`."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        value = _mutate_node(rng, value)
    return value


def _mutate_node(rng: random.Random, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return rng.choice(VALUES)
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    kind = rng.random()
    if kind < 0.6:
        value[key] = _mutate_node(rng, value[key])
    elif kind < 0.7:
        del value[key]
    elif kind < 0.8:
        value[key] = value[rng.choice(list(value) if isinstance(value, dict) else range(len(value)))]
    elif kind < 0.9:
        value[key] = rng.choice([[value[key]], {"a": value[key]}, [value[key]] * 3, str(value[key])[:1000]])
    elif isinstance(value, dict):
        value[rng.choice(TEXTS)] = rng.choice(VALUES)
    else:
        value.insert(key, rng.choice([value[key], rng.choice(VALUES)]))
    return value


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    text = json.dumps(mutate_tree(rng, json.loads(data)))
    if rng.random() < 0.1:  # a literal that does not occur in trees
        numbers = [match.span() for match in re.finditer(r"-?\d+(\.\d+)?", text)]
        start, end = rng.choice(numbers) if numbers else (0, 0)
        return text[:start].encode() + rng.choice(LITERALS) + text[end:].encode()
    return text.encode()


BILLION = (
    '<!DOCTYPE a [<!ENTITY a0 "aaaaaaaaaa">'
    + "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
    + ' <!ENTITY x SYSTEM "file:///etc/passwd">]>'
)
XML_TEXTS = ["&a9;", "&x;", "&amp;", "<a>" * 2000, "<![CDATA[5]]>", "<!-- -->", "<?a b?>", "&#0;", "&#55296;", "]]>"]


def mutate_xml(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    text = data.decode()
    for _ in range(rng.choice([1, 2, 4])):
        parts = re.split(r"(<[^>]*>)", text)
        place = rng.randrange(len(parts))
        kind = rng.randrange(5)
        if kind == 0:
            parts[place] = str(rng.choice([*TEXTS, *NUMBERS, *FLOATS])) if place % 2 == 0 else rng.choice(parts)
        elif kind == 1:
            parts[place] = rng.choice(XML_TEXTS)
        elif kind == 2:
            del parts[place]
        elif kind == 3:
            end = rng.randrange(place, len(parts)) + 1
            parts[place:place] = parts[place:end]
        else:
            other = rng.randrange(len(parts))
            parts[place], parts[other] = parts[other], parts[place]
        text = "".join(parts)
    if rng.random() < 0.1:
        text = BILLION + text
    if rng.random() < 0.1:
        encoding = rng.choice(["utf-8", "utf-16", "latin-1", "cp037", "utf-7", "none", "shift_jis"])
        text = f'<?xml version="1.0" encoding="{encoding}"?>{text}'
    return text.encode(rng.choice(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1"]), "replace")


YAML_BITS = [
    *("&a ", "*a", "<<: *a", "!!python/object:os.system ", "!!int x", "!!bool x", "!!float x", "!!null x", "!!set {a}"),
    *("!!timestamp 2001-99-99", "!!binary x", "!!omap [a]", "%YAML 9.9", "---", "...", "!<", "1e999", ".nan", "~"),
    *("? ", "- ", ": ", "{", "[", "]", "}", "#", "'", '"', "@", "&a [*a, *a]"),
    "{a: &b [1, 1], c: &c [*b, *b], d: &d [*c, *c]}",
    *("0x" + "f" * 5000, "9" * 5000, "[" * 500, "- " * 500, "\0", "\ufeff", "\x85", "\t", "|"),
]


def mutate_yaml(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    text = data.decode()
    if rng.random() < 0.6:
        tree = mutate_tree(rng, yaml.safe_load(text))
        text = yaml.safe_dump(tree, sort_keys=False)
    for _ in range(rng.choice([0, 1, 1, 3])):
        places = [0, *(match.end() for match in re.finditer(r"[\s:,\[{-]", text))]
        place = rng.choice(places)
        text = text[:place] + rng.choice(YAML_BITS) + text[place:]
    return text.encode("utf-8", "surrogatepass")


def mutate_lines(rng: random.Random, data: bytes) -> bytes:
    """Change columns and lines of a text."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    lines = [line.split(" ") for line in data.decode().split("\n")]
    for _ in range(rng.choice([1, 2, 4])):
        line = rng.choice(lines)
        place = rng.randrange(len(line)) if line else 0
        new = str(rng.choice([*TEXTS, *NUMBERS, *FLOATS]))
        line[place : place + rng.randrange(2)] = [new] * rng.choice([0, 1, 1, 1, 3])
    return "\n".join(" ".join(line) for line in lines).encode("utf-8", "surrogatepass")


def mutate_table(rng: random.Random, data: bytes) -> bytes:
    """Fields and lines of a CSV file."""
    return mutate_lines(rng, data.replace(b",", b" ")).replace(b" ", rng.choice([b",", b",", b",", b";", b'",']))


def mutate_zip(rng: random.Random, data: bytes) -> bytes:
    """Damage the entries of a torch file, in a valid archive."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    main = next(place for place, (name, _) in enumerate(entries) if name.endswith("data.pkl"))
    place = main if rng.random() < 0.7 else rng.randrange(len(entries))
    name, content = entries[place]
    kind = rng.random()
    if kind < 0.05:
        del entries[place]
    elif kind < 0.1:
        entries.append((name, content))
    elif kind < 0.12:
        entries[place] = (name, content + bytes(rng.choice([10**4, 10**8])))
    else:
        entries[place] = (name, mutate_pickle(rng, content))
    changed = io.BytesIO()
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(changed, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return changed.getvalue()


OPERATIONS = [b"(", b"0", b"2", b"N", b"t", b"\x85", b"R", b"r\xff\xff\xff\x7f", b"\x8a\x09" + b"\xff" * 8 + b"\0"]
"""Mark, pop, duplicate, None, tuples, call, a far place in the memory, a long number."""


def mutate_pickle(rng: random.Random, data: bytes) -> bytes:
    """Change numbers and names in a pickle; most of its operations stay valid."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, data)
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3])):
        numbers = [match.start() for match in re.finditer(rb"[KMJ]", bytes(changed))]
        place = rng.choice(numbers) if numbers else 0
        kind = rng.randrange(6)
        if kind < 3:
            number = rng.choice([0, 1, -1, 255, 65535, 2**31 - 1, -(2**31), 10**5])
            width = {75: 1, 77: 2, 74: 4}.get(changed[place], 1) if changed else 0
            code = b"J" + number.to_bytes(4, "little", signed=True)
            changed[place : place + 1 + width] = code
        elif kind == 3:
            changed[place:place] = rng.choice(OPERATIONS)
        elif kind == 4:
            old, new = rng.choice(
                [(b"FloatStorage", b"LongStorage"), (b"_rebuild_tensor_v2", b"_rebuild_parameter"), (b"cpu", b"gpu")]
            )
            changed = bytearray(bytes(changed).replace(old, new))
        else:
            changed = bytearray(bytes(changed).replace(b"storage", rng.choice([b"module", b"storag\0", b"storage"])))
    return bytes(changed)


def mutate_safetensors(rng: random.Random, data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.4 or size > len(data):
        return mutate_bytes(rng, data)
    header = mutate_json(rng, data[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + data[8 + size :]

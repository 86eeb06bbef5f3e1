"""`frcnn schema`: all keys of config files as JSON Schema or Markdown."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from frcnn.config import json_schema, markdown_reference


def main(argv: Sequence[str] | None = None) -> int:
    """Print the schema or write it to a file."""
    parser = argparse.ArgumentParser(prog="frcnn schema", description="Print all keys of config files as JSON Schema.")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables, as in docs/config_keys.md")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to FILE, for example configs/schema.json")
    options = parser.parse_args(argv)
    text = markdown_reference() if options.markdown else json.dumps(json_schema(), indent=2) + "\n"
    if options.out is None:
        print(text, end="")
        return 0
    try:
        options.out.write_text(text, encoding="utf-8")
    except OSError as error:
        parser.error(f"--out: cannot write {options.out}: {error.strerror}")
    return 0

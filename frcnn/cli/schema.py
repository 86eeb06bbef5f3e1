"""`frcnn schema`: the keys of config files, as JSON Schema for editors or as Markdown for readers."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from frcnn.config import json_schema, markdown_reference


def main(argv: Sequence[str] | None = None) -> int:
    """Print the schema, or write it to a file with --out."""
    parser = argparse.ArgumentParser(prog="frcnn schema", description="All keys of config files, as JSON Schema.")
    parser.add_argument("--markdown", action="store_true", help="as a page of tables instead, as docs/config_keys.md")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it to this file, as configs/schema.json")
    options = parser.parse_args(argv)
    text = markdown_reference() if options.markdown else json.dumps(json_schema(), indent=2) + "\n"
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")
    return 0

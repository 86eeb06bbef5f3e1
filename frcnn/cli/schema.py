"""`frcnn schema`: the JSON Schema by which editors complete and check configs."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from frcnn.config import json_schema


def main(argv: Sequence[str] | None = None) -> int:
    """Print the schema, or write it to a file with --out."""
    parser = argparse.ArgumentParser(prog="frcnn schema", description="The JSON Schema of config files.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it to this file, as configs/schema.json")
    out = parser.parse_args(argv).out
    text = json.dumps(json_schema(), indent=2) + "\n"
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")
    return 0

"""Limits on the size of input files. docs/safety.md describes them and the other checks.

A file from an untrusted source is read only up to these limits, so that one file cannot exhaust the memory. Each limit
is far above what real datasets need. To raise a limit, set the environment variable of its name.
"""

import os
from typing import NamedTuple

from frcnn.errors import ConfigError, UserError

MIB = 2**20


class Limit(NamedTuple):
    """A limit that an environment variable can change."""

    variable: str
    """Environment variable that overrides the default: a number such as 8e9 or 2000000."""
    default: int
    unit: str

    def value(self) -> int:
        """The current limit.

        Raises:
            ConfigError: the environment variable does not hold a positive number.
        """
        text = os.environ.get(self.variable, "")
        if not text:
            return self.default
        try:
            value = int(float(text))
        except (ValueError, OverflowError):
            value = 0
        if value < 1:
            raise ConfigError(f"the environment variable {self.variable} is {text!r}, expected a number of {self.unit}")
        return value

    def check(self, amount: int, subject: object, *, error: type[UserError]) -> None:
        """Raise `error` if `amount` is above the limit."""
        limit = self.value()
        if amount > limit:
            raise error(
                f"{subject}: has {amount:,} {self.unit}, more than the limit of {limit:,}. If you trust it, set the "
                f"environment variable {self.variable}={amount}"
            )


JSON_BYTES = Limit("FRCNN_MAX_JSON_BYTES", 1536 * MIB, "bytes")
"""Annotations and detections. COCO's training set has 0.45 GB, LVIS 1.1 GB. Parsed, they take up to ten times as much
memory."""
XML_BYTES = Limit("FRCNN_MAX_XML_BYTES", 16 * MIB, "bytes")
"""One VOC annotation; typical size is a few kB."""
LABEL_BYTES = Limit("FRCNN_MAX_LABEL_BYTES", 4 * MIB, "bytes")
"""One YOLO label file; typical size is below one kB, with polygons some kB."""
LIST_BYTES = Limit("FRCNN_MAX_LIST_BYTES", 64 * MIB, "bytes")
"""A list of names of images or classes: about 4 million names."""
TABLE_BYTES = Limit("FRCNN_MAX_CSV_BYTES", 4096 * MIB, "bytes")
"""A CSV file of annotations. The boxes of OpenImages' training set have 2.3 GB."""
CONFIG_BYTES = Limit("FRCNN_MAX_CONFIG_BYTES", MIB, "bytes")
"""One YAML file."""
IMAGE_PIXELS = Limit("FRCNN_MAX_IMAGE_PIXELS", 178_956_970, "pixels")
"""Width times height, checked before an image is decoded. Pillow warns at half this number and also refuses here."""

XML_DEPTH = 100
"""Nesting depth of XML elements; parts of VOC objects are at depth 4."""
CONFIG_DEPTH = 50
"""Nesting depth of mappings and lists in a config; the shipped configs reach 5."""
CONFIG_NODES = 100_000
"""Values in a config, counted again at each alias: with nested aliases, a few lines can stand for billions."""
CONFIG_DIGITS = 1000
"""Digits of one integer; Python neither reads nor prints more than 4300."""
CONFIG_BASES = 30
"""Length of a chain of base files."""
IMAGE_SIDE = 2**24
"""Height or width of an image in its annotation. float32 boxes represent whole pixels exactly up to this size."""
COORDINATE = 1e18
"""Coordinates of detections. Up to this value areas are finite in float32."""
UNPACKED_RATIO = 4
"""Bytes of tensors for each byte of a weight file. torch does not compress, so the ratio of a valid file is about 1."""
UNPACKED_BYTES = 64 * MIB
"""Bytes of tensors that a weight file may hold at any ratio."""

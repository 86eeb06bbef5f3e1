"""How much a file may ask for before it is refused; docs/safety.md says why and what else is checked.

A file from elsewhere is read only up to these limits, so that one file cannot fill the memory. Each is generous: far
above what real data sets hold. Where a larger one is needed, the environment variable of the limit's name raises it.
"""

import os
from typing import NamedTuple

from frcnn.errors import ConfigError, UserError

MIB = 2**20


class Limit(NamedTuple):
    """A limit that the environment can raise."""

    variable: str
    """Environment variable that sets another one, a whole number such as 8e9 or 2000000."""
    default: int
    unit: str

    def value(self) -> int:
        """The limit in force.

        Raises:
            ConfigError: the variable holds no number above 0.
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
        """Raise `error` where `amount` is above the limit."""
        limit = self.value()
        if amount > limit:
            raise error(
                f"{subject}: has {amount:,} {self.unit}, more than the limit of {limit:,}. If it is to be trusted, set "
                f"the environment variable {self.variable}={amount}"
            )


JSON_BYTES = Limit("FRCNN_MAX_JSON_BYTES", 1536 * MIB, "bytes")
"""Annotations and detections. COCO's training set has 0.45 GB, LVIS 1.1 GB; read, they take up to ten times as much."""
XML_BYTES = Limit("FRCNN_MAX_XML_BYTES", 16 * MIB, "bytes")
"""One VOC annotation; they have a few kB."""
LIST_BYTES = Limit("FRCNN_MAX_LIST_BYTES", 64 * MIB, "bytes")
"""A list of image names: about 4 million of them."""
CONFIG_BYTES = Limit("FRCNN_MAX_CONFIG_BYTES", MIB, "bytes")
"""One YAML file."""
IMAGE_PIXELS = Limit("FRCNN_MAX_IMAGE_PIXELS", 178_956_970, "pixels")
"""Width times height, known before an image is decoded. Twice Pillow's threshold of warning, where it refuses too."""

XML_DEPTH = 100
"""Elements inside one another; VOC's parts of objects are at 4."""
CONFIG_DEPTH = 50
"""Mappings and lists inside one another in a config; ours are at 5."""
CONFIG_NODES = 100_000
"""Values of a config, counted again at each alias: by aliases of aliases a few lines can stand for billions."""
CONFIG_DIGITS = 1000
"""Of one whole number; Python neither reads nor prints more than 4300."""
CONFIG_BASES = 30
"""Files in a chain of bases."""
IMAGE_SIDE = 2**24
"""Height or width of an image in its annotation: up to here float32 boxes hold whole pixels."""
COORDINATE = 1e18
"""Coordinates of detections: up to here areas are finite in float32."""
UNPACKED_RATIO = 4
"""Bytes of tensors for each byte of a weight file; torch does not compress, so in an honest file there is about 1."""
UNPACKED_BYTES = 64 * MIB
"""What a weight file may hold at any ratio."""

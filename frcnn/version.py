"""The version of the package and the folder it is installed in. Imports nothing, so every subpackage may use it."""

from pathlib import Path

__version__ = "0.1.0"
PACKAGE = Path(__file__).resolve().parent

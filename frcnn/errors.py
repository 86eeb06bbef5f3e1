"""Errors a user can mend.

Raise one of these where the cause lies in a config, a data set, a checkpoint or an argument. The message names the
file and the object and says what to do; the command-line programs print it alone, without a traceback, and exit
with status 2. Anything else that is raised is a defect of the program.
"""


class UserError(Exception):
    """Something the user gave cannot be used; the message says what and how to mend it."""


class ConfigError(UserError):
    """A config file, key or value that cannot be used."""


class DataError(UserError):
    """An image, an annotation or a data set that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint or weight file that cannot be used."""


class TrainingError(Exception):
    """Training cannot go on: a loss that is no number, a full disk. One message, no traceback, exit status 1."""

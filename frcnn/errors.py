"""Errors that a user can fix.

Raise one of these errors if the cause is in a config, a dataset, a checkpoint or an argument. The message names the
file and the object, and says what to do. The commands print the message without a traceback and exit with status 2.
Any other exception is a bug in the program.
"""


class UserError(Exception):
    """The user's input cannot be used. The message says what is wrong and how to fix it."""


class ConfigError(UserError):
    """A config file, key or value cannot be used."""


class DataError(UserError):
    """An image, an annotation or a dataset cannot be used."""


class CheckpointError(UserError):
    """A checkpoint or weight file cannot be used."""


class TrainingError(Exception):
    """Training cannot continue, for example because a loss is not finite or the disk is full.

    The commands print the message without a traceback and exit with status 1.
    """

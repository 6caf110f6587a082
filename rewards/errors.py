"""The one error a user can act on."""


class TautError(Exception):
    """Bad input: the message names the place, the value and the remedy. The command line prints it without a traceback."""

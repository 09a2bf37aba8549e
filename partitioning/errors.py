"""The one type of error for mistakes that the user can mend."""


class InputError(ValueError):
    """Bad input or configuration.

    The message names the value, the place (file, column, setting) and what would be right. The command line prints it
    without a traceback and ends with exit code 2.
    """

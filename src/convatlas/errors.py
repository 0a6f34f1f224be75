"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in the command, the configuration or the data.

    The message is one line; it names the key or file to change and what was expected. The command line
    prints it without a traceback and exits with status 2.
    """

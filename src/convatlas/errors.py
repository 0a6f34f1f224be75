"""Exceptions that are reported as one line, without a traceback."""


class ReportedError(Exception):
    """Base of the exceptions that the command line reports as one line."""

    status: int
    """The exit status."""


class UserError(ReportedError):
    """A mistake in the command, the configuration or the data, which the user can correct.

    The message is one line; it names the key or file to change and what was expected.
    """

    status = 2


class UnreadableError(UserError):
    """A file of a run is damaged; lists of runs name it and leave the run out."""


class NewerFormatError(UnreadableError):
    """A file was written by a newer version of ConvAtlas, in a format that this version cannot read."""


class DivergedError(UserError):
    """The loss is not finite: the training diverged with these settings."""


class RankLostError(ReportedError):
    """Another rank ended or stopped responding; its own output says why."""

    status = 1


class TrainingFailedError(ReportedError):
    """A training that another command started failed; its log says why."""

    status = 1

"""The exceptions whose message is all that a person needs."""


class ReportedError(Exception):
    """What the command line prints as one line, without a traceback."""

    status: int
    """The exit status."""


class UserError(ReportedError):
    """A mistake in the command, the configuration or the data, which the user can mend.

    The message is one line; it names the key or file to change and what was expected.
    """

    status = 2


class UnreadableError(UserError):
    """A file of a run is damaged; lists of runs name it and leave the run out."""


class NewerFormatError(UnreadableError):
    """A file was written by a newer ConvAtlas, whose format this one does not know."""


class DivergedError(UserError):
    """The loss is no finite number any more: with these settings the training cannot go on."""


class RankLostError(ReportedError):
    """Another rank ended or fell silent; what it said is in its own output."""

    status = 1


class TrainingFailedError(ReportedError):
    """A training that another command started failed; its log says why."""

    status = 1

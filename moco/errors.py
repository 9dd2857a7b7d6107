"""The one kind of error a person is meant to read."""


class MocoError(Exception):
    """A problem that the reader can correct.

    Its text is one line that names the file or setting, the value found there and the remedy.
    Command lines print it without a traceback and exit with `exit_code`.
    """

    exit_code = 1


class Interrupted(MocoError):
    """Work stopped on request (SIGINT or SIGTERM) after saving what it had.

    The same command resumes from there.
    """

    exit_code = 130

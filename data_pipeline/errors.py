"""What a user sees when their input is bad: one line that names file, fault and mend.

And the statuses that processes end with, by which a cluster decides what follows.
"""

EXIT_BAD_INPUT = 2  # a fault of the user's, which would be the same again
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: stopped by SIGTERM; run again to go on
EXIT_LOST = 76  # EX_PROTOCOL of sysexits.h: another process died or does not answer
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it: stopped by Ctrl-C


class InputError(ValueError):
    """Bad input that its owner can mend.

    The message is one line: what (file and place), what is wrong with it, how to mend it. Entry
    points print it without a trace and exit with status 2; bulk work records it, counts it and goes
    on with the rest.
    """


def told(error: Exception) -> str:
    """The one line for whatever one file of many raised, which is recorded and passed over."""
    if isinstance(error, InputError):
        return str(error)
    if said := getattr(error, "strerror", None):
        return str(said)
    cause = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {cause}" if cause else type(error).__name__

"""What a user sees when their input is bad: one line that names file, fault and mend."""


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

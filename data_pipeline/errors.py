"""What a user sees when their input is bad: one line that names file, fault and mend."""


class InputError(ValueError):
    """Bad input that its owner can mend.

    The message is one line: what (file and place), what is wrong with it, how to mend it. Entry
    points print it without a trace and exit with status 2; bulk work records it, counts it and goes
    on with the rest.
    """

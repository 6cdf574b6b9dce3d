"""The error of all that is wrong with options."""


class OptionError(ValueError):
    """Options of a config that nothing reads, or that have values that their reader does not take: a line for each."""

"""What can go wrong while compressing, and who has to act."""


class CompressError(ValueError):
    """The work cannot be done as asked: the message names the fact and the remedy, for the caller to act on."""


class Inapplicable(Exception):
    """A pass has nothing to do on this model, or cannot handle it; the message says why. The search goes on."""

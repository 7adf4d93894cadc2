"""What can be wrong with the zoo: with the data it is trained on, or with what is built of it."""


class ZooError(Exception):
    """The message says what is missing or wrong, and what to do."""


class DatasetError(ZooError):
    """The data are absent, or are not the ones that the family was made from."""


class BuildError(ZooError):
    """A family that cannot be built."""

"""What holds for every test."""

from hypothesis import settings

# No limit of time for one example: the machine is shared, and a slow moment is not a defect.
settings.register_profile("suite", deadline=None, print_blob=True)
settings.load_profile("suite")

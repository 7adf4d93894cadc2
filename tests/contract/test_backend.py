from tests.contract.backend_suite import BackendSuite


class TestBackend(BackendSuite):
    """Every backend of `conftest.BACKENDS`."""

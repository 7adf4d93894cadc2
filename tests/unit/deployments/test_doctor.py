"""What the doctor says of who can reach the gateway."""

import pytest

from deployments.cli.doctor import _exposure
from serving.config import Settings

TLS = {"tls_certfile": "cert.pem", "tls_keyfile": "key.pem"}


@pytest.mark.parametrize(
    ("server", "status", "remedy"),
    [
        ({}, "ok", ""),
        ({"host": "0.0.0.0"}, "warn", "whoever connects is served"),
        ({"host": "0.0.0.0", **TLS}, "warn", "whoever connects is served"),
        ({"host": "0.0.0.0", "api_keys_file": "keys"}, "warn", "in the clear"),
        ({"host": "0.0.0.0", "api_keys_file": "keys", **TLS}, "ok", ""),
    ],
)
def test_exposure(server: dict[str, str], status: str, remedy: str) -> None:
    found = _exposure(Settings.model_validate({"server": server}))
    assert found.status == status
    assert remedy in found.remedy

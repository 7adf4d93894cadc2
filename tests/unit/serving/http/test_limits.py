import dataclasses

import pytest

from serving.http.limits import HttpLimits


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(HttpLimits)])
def test_every_limit_is_positive(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        HttpLimits(**{name: 0})


def test_sweeps_are_rare_unless_a_timeout_is_short() -> None:
    assert HttpLimits().sweep_interval_s == 0.5
    assert HttpLimits(body_stall_s=0.2).sweep_interval_s == pytest.approx(0.05)

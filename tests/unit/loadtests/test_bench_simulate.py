import re

import pytest

from loadtests import bench_simulate


def test_it_tells_what_a_request_costs(capsys: pytest.CaptureFixture[str]) -> None:
    bench_simulate.main(["--requests", "300", "--repeats", "3"])
    told = capsys.readouterr().out
    found = re.fullmatch(r"steady-0.7: 300 requests, ([\d.]+) us each \(([\d.]+) to ([\d.]+)\), .* s a run\n", told)
    assert found, told
    median, least, most = map(float, found.groups())
    assert 0 < least <= median <= most


def test_a_wrong_number_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench_simulate.main(["--requests", "0"])
    assert ended.value.code == 2
    assert "at least 1" in capsys.readouterr().err

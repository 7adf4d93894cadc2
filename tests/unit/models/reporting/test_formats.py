import pytest

from models.reporting.formats import count, data_size, milliseconds, percent, points, times


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (count(1, "seed"), "1 seed"),
        (count(2000, "seed"), "2,000 seeds"),
        (count(0, "policy", "policies"), "0 policies"),
        (percent(0.98765), "98.77 %"),
        (points(0.012), "+1.20 points"),
        (points(-0.012), "\u22121.20 points"),
        (points(-0.00001), "\u00b10.00 points"),
        (times(9.876), "9.88\u00d7"),
        (times(12.6), "13\u00d7"),
        (milliseconds(0.01234), "0.0123 ms"),
        (data_size(999), "1.0 kB"),
        (data_size(1_500_000), "1.5 MB"),
        (data_size(2_000_000_000), "2.0 GB"),
    ],
)
def test_numbers_are_written_so(made, text):
    assert made == text

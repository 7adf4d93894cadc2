from itertools import islice, pairwise, takewhile
from math import isclose, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.arrivals import CHUNK, Phase, TraceError, gamma, poisson, read_trace, trace

MANY = 200_000


def rng(seed=1):
    return np.random.default_rng(seed)


def first(times, count):
    return np.array(list(islice(times, count)))


def cv2_of(gaps):
    return gaps.var() / gaps.mean() ** 2


def test_poisson_has_its_rate_and_exponential_gaps():
    times = first(poisson(50.0, rng()), MANY)
    gaps = np.diff(times)
    assert MANY / times[-1] == pytest.approx(50.0, rel=0.01)  # 4.5 standard errors
    assert cv2_of(gaps) == pytest.approx(1.0, rel=0.03)
    assert (gaps > 1 / 50).mean() == pytest.approx(np.exp(-1), abs=0.005)


@pytest.mark.parametrize("cv2", [0.25, 1.0, 4.0, 8.0])
def test_gamma_has_its_rate_and_its_variation(cv2):
    times = first(gamma(50.0, cv2, rng()), MANY)
    assert MANY / times[-1] == pytest.approx(50.0, rel=5 * sqrt(cv2 / MANY))
    # The variance of a sample of gamma gaps has relative variance (2 + 6 cv2) / n, its squared mean 4 cv2 / n.
    assert cv2_of(np.diff(times)) == pytest.approx(cv2, rel=4 * sqrt((2 + 10 * cv2) / MANY))


def test_gamma_keeps_its_rate_from_the_first_moment():
    counts = [sum(1 for _ in takewhile(lambda at_s: at_s < 1, gamma(2.0, 8.0, rng(seed)))) for seed in range(1500)]
    spread = np.std(counts) / sqrt(len(counts))
    assert np.mean(counts) == pytest.approx(2.0, abs=4 * spread)
    assert spread < 0.1  # beginning with a whole gap would give about 2 arrivals more


def test_the_same_seed_gives_the_same_times_and_another_gives_others():
    assert first(gamma(5.0, 4.0, rng(3)), 2 * CHUNK).tolist() == first(gamma(5.0, 4.0, rng(3)), 2 * CHUNK).tolist()
    assert first(poisson(5.0, rng(3)), 9).tolist() != first(poisson(5.0, rng(4)), 9).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_a_step_and_a_pause_have_the_arrivals_their_rates_ask_for(seed):
    phases = [Phase(10, 1, 1), Phase(5, 10, 10), Phase(5, 0, 0), Phase(10, 0, 2)]
    times = first(poisson(100.0, rng(seed), phases), 12_000)
    for begin, end, expected in [(0, 10, 1000), (10, 15, 5000), (20, 25, 250), (25, 30, 750), (30, 40, 2000)]:
        seen = ((times >= begin) & (times < end)).sum()
        assert abs(seen - expected) <= 4.5 * sqrt(expected)
    assert not ((times >= 15) & (times < 20)).any()


factors = st.sampled_from([0.0, 1e-3, 0.5, 1.0, 3.0, 40.0])
phase_lists = st.lists(st.builds(Phase, st.sampled_from([0.01, 1.0, 7.0]), factors, factors), max_size=5)


@given(phase_lists, st.sampled_from([0.1, 1.0, 300.0]), st.integers(0, 9))
def test_the_expected_arrivals_at_each_time_are_the_steady_process(phases, rate, seed):
    """The time change is exact: where the cumulative rate stands at arrival k, the process of rate 1 has its k-th."""
    steady = first(poisson(1.0, rng(seed)), 500)
    times = first(poisson(rate, rng(seed), phases), 500)
    reached = [expected_until(at_s, rate, phases) for at_s in times]
    assert reached == pytest.approx(steady[: len(times)].tolist(), rel=1e-6, abs=1e-9)
    assert all(a <= b for a, b in pairwise(times))
    if len(times) < len(steady):
        assert phases[-1].end == 0
        assert steady[len(times)] >= expected_until(1e9, rate, phases)


def expected_until(at_s, rate, phases):
    total = 0.0
    for phase in phases:
        into_s = min(at_s, phase.duration_s)
        total += rate * (phase.start * into_s + (phase.end - phase.start) * into_s**2 / 2 / phase.duration_s)
        at_s -= into_s
    return total + (rate * (phases[-1].end if phases else 1.0) * at_s if at_s > 0 else 0.0)


def test_a_rate_that_ends_at_nothing_ends_the_arrivals():
    times = list(poisson(1000.0, rng(), [Phase(1, 1, 1), Phase(1, 1, 0)]))
    assert len(times) == pytest.approx(1500, abs=4.5 * sqrt(1500))
    assert times[-1] < 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: poisson(0.0, rng()),
        lambda: poisson(float("nan"), rng()),
        lambda: gamma(1.0, 0.0, rng()),
        lambda: poisson(1.0, rng(), [Phase(0, 1, 1)]),
        lambda: poisson(1.0, rng(), [Phase(1, -1, 1)]),
        lambda: trace(None, compression=0.0),
    ],
)
def test_impossible_numbers_are_refused_at_once(make):
    with pytest.raises(ValueError, match="above 0"):
        make()


def write(tmp_path, text):
    file = tmp_path / "trace.csv"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    "text",
    [
        "10.5\n11\n\n12.5\n",
        "at,size\n10.5,3\n11,\n12.5,9\n",
        "TIMESTAMP\n2023-11-16 18:17:03.5000000\n2023-11-16 18:17:04\n2023-11-16T18:17:05.5\n",
        "2023-11-16T23:59:59.5+00:00\n2023-11-17T00:00:00Z\n2023-11-17T02:00:01.5+02:00\n",
        "\ufeffat\r\n1e3\r\n1000.5\r\n1002\r\n",
    ],
)
def test_a_trace_starts_at_0_whatever_its_timestamps(tmp_path, text):
    assert read_trace(write(tmp_path, text)) == [0.0, 0.5, 2.0]


def test_a_column_is_chosen_by_name_and_time_is_compressed(tmp_path):
    file = write(tmp_path, "id, at\n7,100\n8,100\n9,130\n")
    assert list(trace(file, 10.0, "at")) == [0.0, 0.0, 3.0]
    with pytest.raises(TraceError, match=r"no column 'time'; there are: id, at"):
        trace(file, 10.0, "time")


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("at\n1\nsoon\n", None, "line 3: 'soon' is not a number of seconds"),
        ("at\n2023-11-16 18:17:03\n5\n", None, "line 3: '5' is not an ISO date"),
        ("at\n1\n\nnan\n", None, "line 4: 'nan' is not a number"),
        ("a,at\n1,1\n2\n", "at", "line 3: 1 cells, but the timestamp is cell 2"),
        ("at\n5\n3\n", None, "line 3: '3' is earlier than '5' before it; sort"),
        ("at\nsoon\n", "at", "line 2: 'soon' is neither a number of seconds nor an ISO date"),
        ("one\ntwo\n", None, "line 2: 'two' is neither"),
        ("at\n", "at", "holds no timestamps"),
        ("", None, "holds no timestamps"),
        ("", "at", "no column 'at'; there are: none"),
        ("1\n\x002\n", None, "line 2"),
    ],
)
def test_a_malformed_trace_is_refused_with_line_and_value(tmp_path, text, column, message):
    with pytest.raises(TraceError) as caught:
        trace(write(tmp_path, text), column=column)
    assert message in str(caught.value)
    assert "trace.csv" in str(caught.value)


def test_a_trace_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(TraceError, match="cannot be read: No such file"):
        trace(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="not a CSV file in UTF-8"):
        trace(tmp_path / "b.csv")


def test_long_series_do_not_drift():
    times = first(poisson(1e6, rng()), 5 * CHUNK)
    assert isclose(times[-1], 5 * CHUNK / 1e6, rel_tol=0.03)
    assert (np.diff(times) >= 0).all()

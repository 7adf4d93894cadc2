import math
from pathlib import Path

import pytest

from loadtests.benchmark.wire import Payload
from loadtests.benchmark.wrk import WrkError, WrkLoad, lua_script, parse_wrk

CLEAN = """\
Running 5s test @ http://127.0.0.1:8000/v2/models/mlp/infer
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     6.93ms    5.30ms  61.02ms   89.12%
    Req/Sec     2.52k   310.11     3.10k    68.00%
  Latency Distribution
     50%  605.00us
     75%    7.40ms
     90%   12.01ms
     99%    1.09s
  12548 requests in 5.01s, 3.57MB read
Requests/sec:   2504.59
Transfer/sec:    729.50KB
"""

ERRORS = CLEAN.replace(
    "Requests/sec",
    "  Socket errors: connect 1, read 22, write 0, timeout 4\n  Non-2xx or 3xx responses: 305\nRequests/sec",
)

NOTHING = """\
Running 1s test @ http://127.0.0.1:8000/
  1 threads and 1 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     0.00us    0.00us   0.00us    -nan%
    Req/Sec     0.00      0.00     0.00      -nan%
  Latency Distribution
     50%    0.00us
     75%    0.00us
     90%    0.00us
     99%    0.00us
  0 requests in 1.00m, 0.00B read
  Socket errors: connect 0, read 0, write 0, timeout 1
Requests/sec:      0.00
Transfer/sec:       0.00B
"""


def test_a_clean_run_reads_requests_time_and_percentiles_in_their_units():
    result = parse_wrk(CLEAN)
    assert result.requests == 12548
    assert result.seconds == 5.01
    assert result.rps == pytest.approx(2504.59, rel=1e-4)
    assert result.p50_s == pytest.approx(605e-6)
    assert result.p99_s == pytest.approx(1.09)
    assert result.errors == {}


def test_socket_errors_and_bad_statuses_are_read():
    assert parse_wrk(ERRORS).errors == {"connect": 1, "read": 22, "timeout": 4, "status": 305}


def test_a_run_without_answers_has_no_percentiles_and_keeps_its_errors():
    result = parse_wrk(NOTHING)
    assert (result.requests, result.seconds, result.errors) == (0, 60.0, {"timeout": 1})
    assert math.isnan(result.p50_s)
    assert math.isnan(result.p99_s)


def test_output_without_totals_is_refused_in_its_own_words():
    with pytest.raises(WrkError, match="Connection refused"):
        parse_wrk("unable to connect to 127.0.0.1:9 Connection refused\n")


def test_output_without_percentiles_is_refused():
    with pytest.raises(WrkError, match="--latency"):
        parse_wrk(CLEAN.replace("99% ", "98% "))


def test_the_script_posts_the_file_with_its_headers_and_quotes_what_lua_would_read():
    script = lua_script(Path('/tmp/a "b"\\c.bin'), {"Content-Type": "application/json", "X": 'say "hi"'})
    assert 'wrk.method = "POST"' in script
    assert 'io.open("/tmp/a \\"b\\"\\\\c.bin", "rb")' in script
    assert 'wrk.headers["Content-Type"] = "application/json"' in script
    assert 'wrk.headers["X"] = "say \\"hi\\""' in script


def fake_wrk(folder, script):
    binary = folder / "wrk"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    return str(binary)


def test_the_call_names_connections_duration_timeout_and_script(tmp_path):
    binary = fake_wrk(tmp_path, f'echo "$@" > {tmp_path}/words; cat <<END\n{CLEAN}END')
    load = WrkLoad(binary, tmp_path, timeout_s=10.0)
    result = load.run("http://127.0.0.1:1/x", Payload(b"\x00body", {"A": "b"}), connections=16, duration_s=5)
    assert result == parse_wrk(CLEAN)
    assert (tmp_path / "body.bin").read_bytes() == b"\x00body"
    assert 'wrk.headers["A"] = "b"' in (tmp_path / "post.lua").read_text()
    words = (tmp_path / "words").read_text()
    assert "--connections 16 --duration 5s --timeout 10s --latency" in words
    assert words.split()[-1] == "http://127.0.0.1:1/x"


def test_a_failing_wrk_is_an_error_with_its_own_words(tmp_path):
    load = WrkLoad(fake_wrk(tmp_path, "echo no such host >&2; exit 3"), tmp_path, timeout_s=1.0)
    with pytest.raises(WrkError, match="ended with 3: no such host"):
        load.run("http://127.0.0.1:1/", Payload(b"", {}), connections=1, duration_s=1)


def test_the_version_is_what_wrk_says_first(tmp_path):
    load = WrkLoad(fake_wrk(tmp_path, 'echo "wrk 4.1.0 [epoll] Copyright"; exit 1'), tmp_path, timeout_s=1.0)
    assert load.version() == "wrk 4.1.0"

import io
import math

import pytest
from rich.console import Console

from loadtests.benchmark.load import LoadResult
from loadtests.benchmark.render import markdown, table
from loadtests.benchmark.results import Cell, Failure, Results, Sample


@pytest.fixture
def results():
    made = Results(
        command="python -m loadtests.bench --repeats 2",
        facts={"CPU": "Some | CPU", "Python": "3.11.1"},
        settings={
            "servers": {"first": "the first server", "second": "the second"},
            "connections": [1, 16],
            "repeats": 2,
            "duration_s": 5,
            "warmup_s": 1,
            "body_bytes": {"json": 8300},
        },
    )
    # Added out of order: the page follows the table of servers, then the number of connections.
    made.add(Cell("second", "json", 1), Sample(1, LoadResult(0, 5.0, math.nan, math.nan, {"timeout": 4}), 0.1))
    made.add(Cell("first", "json", 16), Sample(1, LoadResult(10_000, 5.0, 0.002, 0.0305, {"status": 1234}), 2.0))
    made.add(Cell("first", "json", 1), Sample(1, LoadResult(5_000, 5.0, 0.001, 0.010), 1.0))
    made.add(Cell("first", "json", 1), Sample(2, LoadResult(10_000, 5.0, 0.003, 0.010), 1.0))
    made.complete = True
    return made


def test_rows_hold_median_and_spread_in_the_order_of_the_servers(results):
    page = markdown(results)
    rows = [line for line in page.splitlines() if line.startswith(("| first", "| second"))]
    assert rows == [
        "| first | 1 | 1,500 (1,000-2,000) | 2.00 (1.00-3.00) | 10.00 | 150 (100-200) | - |",
        "| first | 16 | 2,000 | 2.00 | 30.50 | 200 | status 1,234 |",
        "| second | 1 | 0 | - | - | - | timeout 4 |",
    ]


def test_the_page_says_how_and_on_what_it_was_made(results):
    page = markdown(results)
    assert "```\npython -m loadtests.bench --repeats 2\n```" in page
    assert "| CPU | Some \\| CPU |" in page
    assert "8,300 bytes (json)" in page
    assert "Median of 2 repeats of 5 s" in page
    assert "- **second**: the second" in page
    assert "interrupted" not in page
    assert "## Failed" not in page


def test_failures_and_an_interruption_are_told(results):
    results.complete = False
    results.failures.append(Failure("second", 2, "not ready after 60 s; its last words:\nTraceback"))
    page = markdown(results)
    assert "The run was interrupted" in page
    assert "- **second** (repeat 2): not ready after 60 s; its last words:" in page
    assert "Traceback" not in page


def test_every_table_row_has_the_columns_of_its_head(results):
    lines = [line for line in markdown(results).split("## JSON bodies")[1].splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {8}


def test_the_terminal_table_shows_the_same_numbers(results):
    screen = Console(file=io.StringIO(), width=140)
    screen.print(table(results, "json"))
    text = screen.file.getvalue()
    assert "1,500 (1,000-2,000)" in text
    assert "status 1,234" in text
    assert text.count("first") == 1

import json
from pathlib import Path

import pytest

from loadtests.report import write_report
from loadtests.studies.document import Study
from tests.support.studies import grid_results

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(
        title="A <study>",
        command="gearshift simulate <it>",
        complete=False,
        overhead=False,
        provenance={"seeds": "1 to 2 & no more"},
        results=grid_results(),
    )


def test_a_grid_has_a_page_a_document_and_a_picture_a_family(study: Study, tmp_path: Path) -> None:
    files = write_report(tmp_path / "new", study)
    assert [file.name for file in files] == ["report.html", "report.json", "tiny.png"]
    assert files[2].read_bytes().startswith(PNG)
    page = files[0].read_text()
    assert "A &lt;study&gt;" in page
    assert "simulate &lt;it&gt;" in page
    assert "1 to 2 &amp; no more" in page
    assert "stopped early" in page
    assert "<study>" not in page
    assert "$" not in page
    assert page.count("data:image/png;base64,") == 1
    assert page.count("<tr") > len(study.results)


def test_the_document_has_every_cell_and_policy(study: Study, tmp_path: Path) -> None:
    _, document, _ = write_report(tmp_path, study)
    found = json.loads(document.read_text())
    assert found["complete"] is False
    assert len(found["cells"]) == 4
    first = found["cells"][0]
    assert {"upper_bound", "attainment_bound", "attainable_attainment", "span_budgets", "seeds"} <= first.keys()
    ours = first["policies"]["look-ahead"]
    for key in ("attainment", "served_accuracy", "effective_accuracy", "headroom", "p50_ms", "p99_ms", "rejected",
                "expired", "late", "energy_mj_per_request", "cpu_us_per_request", "decision_p99_us"):  # fmt: skip
        assert key in ours
    assert found["summary"][0]["lines"][0]["policy"] == "look-ahead"


def test_a_single_load_has_its_own_table_and_picture(study: Study, tmp_path: Path) -> None:
    alone = Study("One", "x", complete=True, overhead=True, provenance={}, results=study.results[:1])
    page, _, picture = write_report(tmp_path, alone)
    assert picture.name == "simulation.png"
    assert picture.read_bytes().startswith(PNG)
    text = page.read_text()
    assert "served<br>accuracy" in text
    assert "stopped early" not in text
    assert "takes no time" not in text

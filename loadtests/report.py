"""The report of a study: `report.json` for programs, `report.html` and pictures for people."""

from pathlib import Path

from loadtests.studies.document import Study, write_json
from loadtests.studies.page import render_page
from loadtests.studies.picture import draw_pictures

JSON, PAGE = "report.json", "report.html"


def write_report(folder: Path, study: Study) -> list[Path]:
    """Write all files into a folder, which is made if need be; the page needs none of the others.

    Raises `OSError`.
    """
    pictures = draw_pictures(study)
    write_json(folder / JSON, study)
    (folder / PAGE).write_text(render_page(study, pictures), encoding="utf-8")
    for name, picture in pictures.items():
        (folder / f"{name}.png").write_bytes(picture)
    return [folder / PAGE, folder / JSON, *(folder / f"{name}.png" for name in pictures)]

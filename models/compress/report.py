"""The report of a compression: `report.json` for programs, `report.html` and `report.png` for people."""

import json
from pathlib import Path

from models.compress.report_page import render_page
from models.compress.report_picture import draw_picture
from models.compress.results import Attempt, Entry, Report, Sensitivity

__all__ = ["Attempt", "Entry", "Report", "Sensitivity", "write_report"]

JSON, PAGE, PICTURE = "report.json", "report.html", "report.png"


def write_report(folder: Path, report: Report) -> list[Path]:
    """Write the three files into a folder, which is made if need be; the page needs none of the others."""
    picture = draw_picture(report)
    contents = {
        JSON: (json.dumps(report.facts(), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
        PAGE: render_page(report, picture).encode(),
        PICTURE: picture,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]

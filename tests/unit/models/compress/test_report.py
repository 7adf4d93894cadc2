import base64
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from models.compress import report as module
from models.compress.measure import Footprint, Quality, Ratio, Speed, Timing
from models.compress.report import Attempt, Entry, Report, Sensitivity, write_report
from models.compress.report_picture import draw_picture
from models.evaluate import Accuracy
from models.reporting import picture

VOID = {"meta", "img", "br"}


def entry(name, accuracy=0.9, ms=8.0, size=4_000_000, *, kept=True, recipe=(), sizes=(1, 2, 4), why=""):
    ratio = ms / 8.0
    timings = tuple(
        Timing(rows, rows * ms / 1e3, rows * ms / 900, 99, Ratio(ratio, ratio * 0.98, ratio * 1.02)) for rows in sizes
    )
    return Entry(
        name=name,
        recipe=recipe,
        quality=Quality("top-1", Accuracy(round(1000 * accuracy), 1000), Accuracy(950, 1000), 0.02),
        speed=Speed(timings, timings, 2, 7, ms * 10, "estimate"),
        footprint=Footprint(size, size // 2, size * 2),
        kept=kept,
        why=why,
    )


@pytest.fixture
def made() -> Report:
    return Report(
        model="digits",
        reference="original",
        entries=(
            entry("original"),
            entry("int8", 0.898, 2.0, 1_000_000, recipe=({"pass": "int8-static", "per_channel": True},)),
            entry("tiny", 0.85, 0.5, 100_000),
            entry("slow", 0.88, 9.0, kept=False, why="dominated by 'int8'"),
            entry("broken", 0.1, 1.0, kept=False),
        ),
        dropped=(Attempt("low-rank-10", "loses more than --max-accuracy-loss 0.02"),),
        command="gearshift compress digits.onnx --data digits.npz --out families",
        seed=7,
        digest="ab" * 32,
        rows={"train": 700, "validation": 100, "test": 1000},
        gates={"max_accuracy_loss": 0.02, "max_size_bytes": None},
        sensitivity=Sensitivity((("conv1", 0.1), ("conv2", 0.4), ("head", -0.01)), "nats"),
        spent_s=12.0,
    )


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Pictures of few dots are drawn in less time."""
    monkeypatch.setattr(picture, "DOTS", 40)


class Page(HTMLParser):
    """Text and attributes of a page whose tags are closed in the order they were opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sources, self.texts = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def test_writes_three_files(made, tmp_path):
    paths = write_report(tmp_path / "new" / "report", made)
    assert [path.name for path in paths] == ["report.json", "report.html", "report.png"]
    facts = json.loads(paths[0].read_text(encoding="utf-8"))
    assert {each["name"] for each in facts["variants"]} == {"original", "int8", "tiny", "slow", "broken"}
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_the_same_report_is_the_same_bytes(made, tmp_path):
    first, again = write_report(tmp_path / "a", made), write_report(tmp_path / "b", made)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


class TestPage:
    @pytest.fixture(autouse=True)
    def no_picture(self, monkeypatch):
        monkeypatch.setattr(module, "draw_picture", lambda report: b"a picture")

    @pytest.fixture
    def page(self, made, tmp_path) -> Page:
        return Page(write_report(tmp_path, made)[1].read_text(encoding="utf-8"))

    def test_stands_alone(self, page, tmp_path):
        assert len(page.sources) == 1
        kind, _, picture = page.sources[0].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(picture) == (tmp_path / "report.png").read_bytes()
        assert "script" not in page.tags

    def test_tells_what_was_kept_and_what_was_not_and_why(self, page):
        family, _, rest = page.text.partition("Measured, and not kept")
        assert "int8-static (per_channel True)" in family
        assert "tiny" in family
        assert "slow" not in family.partition("The family")[2]
        assert "dominated by 'int8'" in rest
        assert "low-rank-10 loses more than --max-accuracy-loss 0.02" in rest

    def test_tells_how_to_make_it_again(self, page, made):
        for fact in (made.command, made.digest, "seed 7", "1,000 test", "max accuracy loss 0.02", "12 s of work"):
            assert fact in page.text

    def test_praises_the_best_by_figures(self, page):
        assert "4.00\u00d7 faster int8 within 0.5 points of the original" in page.text
        assert "16\u00d7 faster tiny \u22125.00 points accuracy" in page.text
        assert "40\u00d7 smaller tiny" in page.text

    def test_leaves_no_placeholder(self, page):
        assert not re.search(r"\$\w", page.text)

    def test_escapes_what_others_wrote(self, made, tmp_path):
        evil = "<script>alert('x')</script> & $title"
        spoiled = replace(
            made,
            model=evil,
            command=evil,
            gates={evil: evil},
            dropped=(Attempt(evil, evil),),
            entries=(
                *made.entries,
                entry(evil, recipe=({"pass": evil, evil: evil},), why=evil),
            ),
        )
        page = Page(write_report(tmp_path, spoiled)[1].read_text(encoding="utf-8"))
        assert "script" not in page.tags
        assert page.text.count("<script>") >= 8

    def test_of_an_original_alone(self, made, tmp_path):
        alone = replace(made, entries=made.entries[:1], dropped=(), sensitivity=None, spent_s=None)
        text = Page(write_report(tmp_path, alone)[1].read_text(encoding="utf-8")).text
        assert "family of 1 variants" not in text
        assert "family of 1 variant" in text
        assert "Tried, and dropped" not in text

    def test_without_labels_energy_or_memory(self, made, tmp_path):
        bare = tuple(
            replace(
                each,
                quality=replace(each.quality, metric="agreement", kl=math.inf),
                speed=replace(each.speed, energy_source="none", energy_mj=0.0),
                footprint=replace(each.footprint, memory_bytes=None),
            )
            for each in made.entries
        )
        paths = write_report(tmp_path, replace(made, entries=bare))
        text = Page(paths[1].read_text(encoding="utf-8")).text
        assert "no labels" in text
        assert "mJ" not in text
        assert "answers NaN" in text
        assert json.loads(paths[0].read_text(encoding="utf-8"))["variants"][0]["kl_nats"] is None


class TestPicture:
    def pixels(self, report):
        return np.asarray(Image.open(io.BytesIO(draw_picture(report))).convert("RGB")).astype(int)

    def test_names_the_data_it_shows(self, made):
        assert made.digest in Image.open(io.BytesIO(draw_picture(made))).text["Description"]

    def test_shows_every_variant_it_has_room_for(self, made):
        """A variant less is another picture; one far below the kept ones is only counted."""
        full = self.pixels(made)
        for left_out in ("int8", "slow", "broken"):
            fewer = replace(made, entries=tuple(each for each in made.entries if each.name != left_out))
            assert np.abs(self.pixels(fewer) - full).sum() > 0, left_out

    def test_shows_sizes_where_no_layer_was_looked_at(self, made):
        assert np.abs(self.pixels(replace(made, sensitivity=None)) - self.pixels(made)).sum() > 0

    @pytest.mark.parametrize(
        "entries",
        [
            (entry("original"),),
            (entry("original", sizes=(1,)), entry("same", sizes=(1,))),
            (entry("original", 1.0), entry("none", 0.0, 0.001, 10)),
            tuple(entry("original" if at == 0 else f"variant-with-a-very-long-name-{at:02}-int8-static-per-channel")
                  for at in range(20)),
        ],
    )  # fmt: skip
    def test_of_unusual_families(self, made, entries):
        assert draw_picture(replace(made, entries=entries)).startswith(b"\x89PNG")

    def test_names_are_no_formulas(self, made):
        layers = (("/model/$w_{1$", 0.1), ("x" * 200, 0.0))
        assert draw_picture(replace(made, sensitivity=Sensitivity(layers, "nats"))).startswith(b"\x89PNG")


def test_many_attempts_are_folded_up_by_reason_and_all_of_them_are_in_the_json(made, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "draw_picture", lambda report: b"a picture")
    alike = [Attempt(f"a{at}<b>", "nothing to do") for at in range(30)]
    several = [Attempt(f"c{at}", f"not measured: {at} bytes") for at in range(20)]
    json_file, page_file, _ = write_report(tmp_path, replace(made, dropped=(*alike, *several)))
    page = Page(page_file.read_text(encoding="utf-8"))
    assert page.tags.count("details") == 2
    assert "nothing to do (30) a0<b>, a1<b>" in page.text
    assert "not measured (20) recipe why c0 not measured: 0 bytes" in page.text
    assert len(json.loads(json_file.read_text(encoding="utf-8"))["dropped"]) == 50

"""What a program wrote into the pages is what it would write now."""

import json
from pathlib import Path

import pytest
from PIL import Image

from docs import figures, generate, measure, technique_table
from docs.blocks import ROOT, block_names, filled
from models.manifest import Family, read_manifest
from serving.catalog import demo_repository
from serving.config import ModelSettings, Settings, setting_names


@pytest.fixture(scope="module")
def family() -> Family:
    return read_manifest(demo_repository() / "fashion" / "1" / "family.json")


@pytest.mark.parametrize("name", generate.PAGES)
def test_tables_are_up_to_date(name: str) -> None:
    assert generate.rendered(name) == (ROOT / name).read_text(encoding="utf-8"), "run python -m docs.generate"


def test_every_generated_region_has_a_writer(page: Path) -> None:
    known = generate.PAGES.get(str(page.relative_to(ROOT)), {})
    assert sorted(known) == sorted(block_names(page.read_text(encoding="utf-8")))


def test_a_missing_region_is_told() -> None:
    with pytest.raises(KeyError, match="tables"):
        filled("a page without regions\n", {"tables": "x"})


def test_only_the_named_region_changes() -> None:
    page = (
        "<!-- generated: a -->\nold\n<!-- end of generated -->\n<!-- generated: b -->\nold\n<!-- end of generated -->\n"
    )
    assert filled(page, {"b": "new"}) == page[::-1].replace("dlo", "wen", 1)[::-1]


def test_every_setting_is_documented_with_meaning_and_default() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for section, key in setting_names():
        variable = f"`gearshift_{section}__{key}`".upper()
        line = next(line for line in text.splitlines() if variable in line)
        name, _, default, unit, meaning = (cell.strip() for cell in line.strip("|").split(" | "))
        assert name == f"`{key}`"
        assert unit
        assert len(meaning) > 10
        value = getattr(getattr(Settings(), section), key)
        if (section, key) not in generate.FACTORY_DEFAULTS:
            nothing = value is None or value in ((), {})
            assert default == ("none" if nothing else f"`{str(value).lower() if value in (True, False) else value}`")


def test_defaults_in_words_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert ModelSettings().cache_dir == Path("/somewhere/gearshift/profiles")
    factories = {
        (section, key)
        for section, key in setting_names()
        if generate._section(section).model_fields[key].default_factory not in (None, dict)
    }
    assert factories == generate.FACTORY_DEFAULTS.keys()


def test_the_measurement_is_of_the_present_family(family: Family) -> None:
    data = measure.load()
    shown = {v["name"]: (v["sha256"], v["accuracy"], v["size_bytes"]) for v in data["variants"]}
    assert shown == {v.name: (v.sha256, v.accuracy, v.size_bytes) for v in family.variants}, "run python -m docs"
    assert data["family"] == f"{family.name}/{family.version}"


def test_every_pass_was_tried_on_every_model_and_is_explained() -> None:
    registry = pytest.importorskip("models.compress.passes.registry", reason="the passes' libraries are not installed")
    text = (ROOT / "docs" / "compression.md").read_text(encoding="utf-8")
    for name in registry.NAMES:
        section = text.partition(f"\n### `{name}`\n")[2].partition("\n### ")[0]
        assert f"--passes {name}" in section
        assert "*Not when*" in section
    for reference in technique_table.load()["references"]:
        tried = {one["pass"] for one in [*reference["variants"], *reference["inapplicable"]]}
        assert tried - {""} == set(registry.NAMES), "run python -m docs.techniques"


def test_measured_techniques_are_beside_their_original() -> None:
    for reference in technique_table.load()["references"]:
        original = next(one for one in reference["variants"] if one["name"] == "original")
        assert original["size_ratio"] == 1.0
        for one in reference["variants"]:
            assert one["interval"][0] <= one["accuracy"] <= one["interval"][1]
            assert all(ratio["low"] <= ratio["median"] <= ratio["high"] for ratio in one["latency"].values())


def test_the_picture_shows_the_measurement() -> None:
    with Image.open(figures.PICTURE) as picture:
        assert picture.text[figures.DATA_KEY] == figures.artifacts_of(measure.load()), "run python -m docs.figures"
        assert picture.width > 800


def test_a_picture_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "PICTURE", tmp_path / "new.png")
    beaten = {
        "name": "beaten", "sha256": "0" * 64, "accuracy": 0.1, "samples": 1, "size_bytes": 1,
        "ms_at_1": {"median": 9.0, "least": 8.0, "most": 10.0},
    }  # fmt: skip
    data = measure.load()
    data["variants"] = [*data["variants"], beaten]
    figures.draw(data)
    with Image.open(tmp_path / "new.png") as picture:
        assert "beaten" in picture.text[figures.DATA_KEY]


def test_the_frontier_leaves_out_what_is_beaten() -> None:
    points = [{"accuracy": 0.8}, {"accuracy": 0.7}, {"accuracy": 0.9}, {"accuracy": 0.9}]
    assert figures._frontier(points) == [{"accuracy": 0.8}, {"accuracy": 0.9}]


def test_measured_spreads_are_spreads() -> None:
    for variant in json.loads(measure.DATA.read_text(encoding="utf-8"))["variants"]:
        for spread in (variant["ms_at_1"], variant["rows_per_second_at_knee"]):
            assert 0 < spread["least"] <= spread["median"] <= spread["most"]

import io

import pytest
from PIL import Image

from models.reporting import picture


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Pictures of few dots are drawn in less time."""
    monkeypatch.setattr(picture, "DOTS", 30)


def drawn(description=""):
    figure = picture.blank(4.0, 2.0)
    axes = figure.add_subplot()
    axes.plot([1, 10], [1, 2])
    picture.style_axes(axes, "Title", "across", "up")
    return picture.png(figure, description)


def test_the_same_picture_is_the_same_bytes_and_of_the_size_asked_for():
    first = drawn()
    assert drawn() == first
    with Image.open(io.BytesIO(first)) as image:
        assert image.size == (120, 60)
        assert "Software" not in image.info


def test_a_description_stands_in_the_file():
    with Image.open(io.BytesIO(drawn("digits: abc"))) as image:
        assert image.info["Description"] == "digits: abc"


@pytest.mark.parametrize(("most", "ticks"), [(100, {1, 2, 5, 10, 20, 50, 100}), (1e5, {1, 10, 100, 1000, 1e4, 1e5})])
def test_a_logarithmic_axis_has_plain_numbers_at_few_places(most, ticks):
    axes = picture.blank(4.0, 2.0).add_subplot()
    axes.set_xscale("log")
    axes.set_xlim(1, most)
    picture.plain_numbers(axes.xaxis)
    assert {round(at, 6) for at in axes.get_xticks() if 1 <= at <= most} == ticks
    assert axes.xaxis.get_major_formatter()(0.5) == "0.5"
    assert axes.xaxis.get_minor_formatter()(0.5) == ""

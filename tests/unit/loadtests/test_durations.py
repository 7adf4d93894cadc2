from itertools import islice
from pathlib import Path

import pytest

import loadtests
from loadtests.documents import write_document
from loadtests.durations import DurationsError, Sampler, read_durations, uniforms
from models.repository import open_family
from tests.support.durations import durations_of

TINY = durations_of({"small": (1, 2, 4, 8), "large": (10, 20, 40, 80)}, ratios=(0.5, 1.0, 3.0), full=2.0, workers=4)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_document(TINY, tmp_path / "deep" / "tiny.json")
    assert read_durations(tmp_path / "deep" / "tiny.json") == TINY
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["tiny.json"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "tiny.json"),
        ('{"format": 2}', "format"),
        (TINY.model_dump_json().replace('"rows":[1,2,4,8]', '"rows":[1,2,8,4]'), "must rise"),
        (TINY.model_dump_json().replace('"family"', '"families"'), "families"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "tiny.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DurationsError, match=told):
        read_durations(file)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DurationsError, match="cannot be read"):
        read_durations(tmp_path / "none.json")


def test_a_missing_variant_is_told() -> None:
    with pytest.raises(DurationsError, match="'middle'.*small"):
        Sampler(TINY, ["middle"], 2, seed=1)


def test_a_scheduler_believes_the_medians_of_a_calm_host() -> None:
    profile = TINY.profiles(watts_per_core=10)["large"]
    assert profile.rows == (1, 2, 4, 8)
    assert profile.seconds == pytest.approx((0.01, 0.02, 0.04, 0.08))
    assert profile.energy_mj_per_row == pytest.approx(100)
    assert TINY.profiles(watts_per_core=0)["large"].energy_source == "none"


class TestSampler:
    @pytest.mark.parametrize(
        ("variant", "rows", "busy", "ms"),
        [
            (0, 1, 1, 1.0),
            (0, 3, 1, 3.0),  # between two sizes
            (0, 16, 1, 16.0),  # beyond the last
            (1, 2, 4, 40.0),  # all four busy: twice as long
            (1, 2, 9, 40.0),
            (1, 3, 2, 40.0),  # a third of the way from 30 to 60
        ],
    )
    def test_medians(self, variant: int, rows: int, busy: int, ms: float) -> None:
        sampler = Sampler(TINY, ["small", "large"], 4, seed=1, noise=False)
        assert sampler.draw(variant, rows, busy) == pytest.approx(ms / 1e3)

    def test_noise_is_what_was_measured(self) -> None:
        sampler = Sampler(TINY, ["large"], 4, seed=1)
        drawn = [round(sampler.draw(0, 3, 1) * 1e3, 6) for _ in range(3000)]
        assert set(drawn) == {15.0, 30.0, 90.0}
        assert all(800 < drawn.count(value) < 1200 for value in set(drawn))

    def test_the_nearest_size_lends_its_noise(self) -> None:
        uneven = durations_of({"only": (1, 2)}, rows=(1, 8), ratios=(1.0,))
        level = uneven.variants[0].levels[0].model_copy(update={"samples_us": ((1000.0,), (1000.0, 2000.0, 4000.0))})
        sizes = uneven.model_copy(update={"variants": (uneven.variants[0].model_copy(update={"levels": (level,)}),)})
        sampler = Sampler(sizes, ["only"], 1, seed=1)
        assert len({sampler.draw(0, 2, 1) for _ in range(50)}) == 1
        assert len({sampler.draw(0, 4, 1) for _ in range(50)}) == 3

    def test_a_seed_repeats(self) -> None:
        first, again, other = (Sampler(TINY, ["small"], 2, seed) for seed in (1, 1, 2))
        drawn = [[sampler.draw(0, 1, 1) for _ in range(40)] for sampler in (first, again, other)]
        assert drawn[0] == drawn[1] != drawn[2]


def test_streams_of_random_numbers_are_independent() -> None:
    assert list(islice(uniforms(1, 0), 5)) != list(islice(uniforms(1, 1), 5))


def test_the_measured_file_fits_the_demo_family() -> None:
    here = Path(loadtests.__file__).parent
    durations = read_durations(here / "measured" / "fashion.json")
    family = open_family(here.parent / "models" / "zoo" / "families" / "fashion" / "1").family
    assert durations.family == "fashion/1"
    for variant in family.variants:
        levels = durations.of(variant.name).levels
        assert [level.busy for level in levels] == [1, durations.host.cores]
        assert all(len(samples) >= 50 for level in levels for samples in level.samples_us)

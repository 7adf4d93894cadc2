from pathlib import Path

import pytest

from models.zoo import options

HERE = Path("out")


def test_training_names_its_nets_and_takes_all_of_them():
    parser = options.training("tiny", "Train.", nets={"a": 1, "b": 2}, examples="  one", threads=3)
    chosen = parser.parse_args([])
    assert (chosen.nets, chosen.threads, chosen.epochs, chosen.seed) == (["a", "b"], 3, None, 0)
    assert chosen.work == Path("~/.cache/gearshift/zoo/tiny")
    assert parser.parse_args(["--nets", "b"]).nets == ["b"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--nets", "c"])


def test_help_names_the_next_command():
    training = options.training("tiny", "Train.", nets=["a"], examples="  one", threads=1).format_help()
    assert "python -m models.zoo.tiny.train" in training
    assert "python -m models.zoo.tiny.build" in training
    building = options.building("tiny", "Build.").format_help()
    assert "python -m models.zoo.tiny.train" in building
    assert "python -m models.evaluate models/zoo/families/tiny/1 --dataset tiny" in building


@pytest.mark.parametrize("parser", [options.building("tiny", ""), options.sampling("tiny", "", HERE)])
def test_results_go_to_a_place_of_the_family_or_where_one_says(parser):
    assert parser.parse_args([]).out in (options.home("tiny"), HERE)
    assert parser.parse_args(["--out", "there"]).out == Path("there")

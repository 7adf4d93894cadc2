"""The search over compositions: fake passes that take ballast away, real weighing, a real store."""

import errno
import re
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.compress.errors import CompressError, Inapplicable
from models.compress.exploration import Exploration, Options
from models.compress.original import Original
from models.compress.step import Stage, Step
from models.compress.store import Store
from tests.support import linear
from tests.support.linear import lighter, names, parameters

calls: list[str] = []


@pytest.fixture(autouse=True)
def forget_calls():
    calls.clear()


class Fake(Step):
    """Notes each call and takes some of the ballast away: how much is such that none is beaten by an earlier one."""

    share: ClassVar[float] = 0.9

    def apply(self, model, bench):
        calls.append(self.label)
        return self.changed(model)

    def changed(self, model):
        return lighter(model, self.share)

    @classmethod
    def choices(cls, model, bench):
        calls.append(f"{cls.name}?")
        return [cls()]

    @property
    def label(self):
        return self.name


@parameters
class Cut(Fake):
    name: ClassVar[str] = "cut"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    share: ClassVar[float] = 0.6


@parameters
class Round(Fake):
    name: ClassVar[str] = "round"
    stage: ClassVar[Stage] = Stage.PRECISION
    kept: float = 0.5

    def changed(self, model):
        return lighter(model, self.kept)

    @classmethod
    def choices(cls, model, bench):
        return [cls(0.5), cls(0.45)]

    @property
    def label(self):
        return f"round{round(100 * self.kept)}"


@parameters
class Last(Fake):
    name: ClassVar[str] = "last"
    stage: ClassVar[Stage] = Stage.FUSE


@parameters
class Nothing(Fake):
    name: ClassVar[str] = "nothing"
    stage: ClassVar[Stage] = Stage.WEIGHTS

    def changed(self, model):
        raise Inapplicable("there is nothing to do")


@parameters
class NoChoice(Fake):
    name: ClassVar[str] = "no-choice"
    stage: ClassVar[Stage] = Stage.WEIGHTS

    @classmethod
    def choices(cls, model, bench):
        calls.append(f"{cls.name}?")
        raise Inapplicable("there are no such layers")


@parameters
class Busy(Fake):
    """Takes some time, once for each of its settings."""

    name: ClassVar[str] = "busy"
    stage: ClassVar[Stage] = Stage.WEIGHTS
    serial: int = 0

    def changed(self, model):
        linear.spend(0.2)
        return lighter(model, 0.9 - 0.1 * self.serial)

    @classmethod
    def choices(cls, model, bench):
        return [cls(serial) for serial in range(8)]

    @property
    def label(self):
        return f"busy{self.serial}"


@pytest.fixture
def explore(tmp_path):
    """Explore the linear model with some fake passes; the store is the test's own."""

    def run(*passes, original=None, labelled=True, **options) -> Exploration:
        made, data = linear.made(labelled=labelled)
        exploration = Exploration(
            original or made, data, Options(**options), Store(tmp_path), passes={each.name: each for each in passes}
        )
        exploration.run()
        return exploration

    return run


def entries(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_recipes_grow_by_rounds_and_their_stages_rise(explore):
    found = explore(Cut, Round, Last).found
    assert names(found.candidates) == [
        "original", "cut", "round50", "last",
        "round45", "cut-round50", "cut-last", "round50-last", "round45-last",
        "cut-round45", "cut-round50-last", "cut-round45-last",
    ]  # fmt: skip
    assert found.dropped == []
    sizes = {candidate.name: candidate.weight.size_bytes for candidate in found.candidates}
    left = sizes["cut-round45-last"] - (sizes["original"] - linear.BALLAST)
    assert left == pytest.approx(0.6 * 0.45 * 0.9 * linear.BALLAST, abs=5)


def test_a_second_run_makes_the_same_choices_and_does_nothing(explore, tmp_path):
    first = explore(Cut, Round, Nothing, NoChoice, Last)
    assert "cut" in calls
    before = entries(tmp_path)
    calls.clear()
    second = explore(Cut, Round, Nothing, NoChoice, Last)
    assert calls == []
    assert entries(tmp_path) == before
    assert second.found == first.found
    assert names(second.chosen()) == names(first.chosen())


def test_work_of_an_earlier_run_counts_and_a_larger_budget_goes_further(explore):
    first = explore(Busy, time_budget_s=1.0)
    done = list(calls)
    assert 1 <= len(done) < 8, "some of the eight settings fit into the budget"
    calls.clear()
    again = explore(Busy, time_budget_s=1.0)
    assert calls == []
    assert again.found == first.found
    more = explore(Busy, time_budget_s=10.0)
    assert [*done, *calls] == [f"busy{serial}" for serial in range(8)]
    assert more.found.candidates[: len(first.found.candidates)] == first.found.candidates
    assert more.found.spent_s > first.found.spent_s


def test_what_cannot_be_done_is_told_once_and_remembered(explore):
    for expected in (["no-choice?", "nothing?", "nothing"], []):
        calls.clear()
        exploration = explore(NoChoice, Nothing)
        assert calls == expected
        assert [(dropped.name, dropped.reason) for dropped in exploration.found.dropped] == [
            ("original: no-choice", "there are no such layers"),
            ("nothing", "there is nothing to do"),
        ]


def _renamed(model):
    copy = lighter(model, 1.0)
    copy.graph.input[0].name = copy.graph.node[0].input[0] = "y"
    return copy


def _fixed(model):
    copy = lighter(model, 1.0)
    copy.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 24
    return copy


def _narrow(model):
    copy = lighter(model, 1.0)
    copy.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    weights = numpy_helper.to_array(copy.graph.initializer[0])[:, :3]
    copy.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    return copy


def _doubled(model):
    copy = lighter(model, 1.0)
    copy.graph.node[0].output[0] = "half"
    copy.graph.node.append(helper.make_node("Add", ["half", "half"], ["scores"]))
    copy.graph.output.append(helper.make_tensor_value_info("half", onnx.TensorProto.FLOAT, ["n", 4]))
    return copy


def _torn(model):
    copy = lighter(model, 1.0)
    copy.graph.node[0].op_type = "NoSuchOperator"
    return copy


def _nan(model):
    copy = lighter(model, 1.0)
    weights = np.full_like(numpy_helper.to_array(copy.graph.initializer[0]), np.nan)
    copy.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    return copy


def _few_rows(model):
    """States a free first axis, and cuts it."""
    copy = lighter(model, 1.0)
    copy.graph.node[0].output[0] = "all"
    copy.graph.node.append(helper.make_node("Slice", ["all", "start", "end", "axis"], ["scores"]))
    for name, value in (("start", 0), ("end", 5), ("axis", 0)):
        copy.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    return copy


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_renamed, "input 'x' is not in the graph, which has: y"),
        (_fixed, r"input 'x' is FP32 \[24, 8\] in the graph"),
        (_narrow, r"output 'scores' is FP32 \[-1, 3\] in the graph"),
        (_doubled, "it has 2 outputs, the original one"),
        (_torn, "cannot load it: .*NoSuchOperator"),
        (_nan, "it answers 24 of 24 rows with NaN or infinity"),
        (_few_rows, r"it answers 24 rows with shape \[5, 4\], expected \[24, 4\]"),
    ],
)
def test_a_model_that_breaks_the_contract_is_dropped_with_the_reason(explore, change, reason):
    @parameters
    class Broken(Fake):
        name: ClassVar[str] = "broken"
        stage: ClassVar[Stage] = Stage.WEIGHTS

        def changed(self, model):
            return change(model)

    for times in (1, 0):
        calls.clear()
        found = explore(Broken, Last).found
        (dropped,) = found.dropped
        assert (dropped.name, dropped.traceback) == ("broken", None)
        assert re.search(reason, dropped.reason), dropped.reason
        assert calls.count("broken") == times, "remembered"
        assert names(found.candidates) == ["original", "last"]


@parameters
class Defect(Fake):
    name: ClassVar[str] = "defect"
    stage: ClassVar[Stage] = Stage.WEIGHTS

    def changed(self, model):
        raise KeyError("a tensor\nthat nobody made")


@parameters
class NoQuestion(Fake):
    name: ClassVar[str] = "no-question"
    stage: ClassVar[Stage] = Stage.WEIGHTS

    @classmethod
    def choices(cls, model, bench):
        calls.append(f"{cls.name}?")
        raise MemoryError


def test_a_defect_ends_its_recipe_only_and_is_tried_again(explore):
    for _ in range(2):
        calls.clear()
        found = explore(Defect, NoQuestion, Last).found
        assert names(found.candidates) == ["original", "last"]
        first, second = found.dropped
        assert (first.name, first.reason) == ("original: no-question", "failed: MemoryError: no reason given")
        assert (second.name, second.reason) == ("defect", r"failed: KeyError: 'a tensor\nthat nobody made'")
        assert "in changed\n" in second.traceback.read_text(encoding="utf-8")
        assert {"defect", "no-question?"} <= set(calls), "neither is remembered"


def test_a_full_disk_is_no_fault_of_the_pass(explore):
    @parameters
    class Full(Fake):
        name: ClassVar[str] = "full"
        stage: ClassVar[Stage] = Stage.WEIGHTS

        def changed(self, model):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        explore(Full, Last)


def test_an_original_that_fails_on_the_data_is_told(explore):
    good, _ = linear.made()
    weights = np.full((linear.WIDTH, linear.CLASSES), np.nan, dtype=np.float32)
    bad = Original("bad", linear.content(weights=weights), good.inputs, good.output)
    with pytest.raises(CompressError, match="bad: the model does not work on all of the data .*NaN or infinity"):
        explore(Last, original=bad)


def test_names_are_short_enough_and_no_two_the_same(explore):
    @parameters
    class Long(Fake):
        name: ClassVar[str] = "long"
        stage: ClassVar[Stage] = Stage.STRUCTURE
        kept: float = 0.5

        def changed(self, model):
            return lighter(model, self.kept)

        @classmethod
        def choices(cls, model, bench):
            return [cls(0.5), cls(0.25)]

        @property
        def label(self):
            return "a" * 61

    found = names(explore(Long, Last).found.candidates)
    assert len(found) == len(set(found)) == 6
    assert all(len(name) <= 64 for name in found)
    assert found == names(explore(Long, Last).found.candidates)


def test_gates_leave_room_for_those_who_may_pass(explore):
    limit = linear.BALLAST // 3
    exploration = explore(Cut, Round, Last, max_size_bytes=limit, most_variants=2)
    chosen = exploration.chosen()
    assert chosen[0].name == "original"
    assert [len(candidate.content) <= limit for candidate in chosen] == [False, True]


def test_without_labels_the_original_is_the_measure(explore):
    assert explore(Cut, labelled=False).found.candidates[0].score == 1.0
    assert explore(Cut).found.candidates[0].score < 1.0


def test_passes_are_asked_for_by_name(tmp_path):
    original, data = linear.made()
    with pytest.raises(
        CompressError, match=r"no pass is called 'int8static' \(did you mean 'int8-static'\?\); there are"
    ):
        Exploration(original, data, Options(passes=("int8static",)), Store(tmp_path))

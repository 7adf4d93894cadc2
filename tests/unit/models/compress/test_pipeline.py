"""From a model and rows to a published family: with real passes, on models so small that it takes seconds."""

import errno
import json
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import repository
from models.compress import pipeline
from models.compress import store as store_module
from models.compress.cost import multiply_adds
from models.compress.dataset import Rows, split
from models.compress.errors import CompressError
from models.compress.exploration import Options
from models.compress.original import Original
from models.compress.passes.registry import NAMES
from models.compress.pipeline import compress, next_version
from models.compress.store import Store
from models.manifest import Padding, digest_of
from models.repository import RepositoryError, open_family, open_repository
from models.session import Session
from tests.support import compress as support

QUICK = ("half", "weight-only", "int8-dynamic")
"""Passes that take a moment each."""
WHOLE_BUDGET_S = 50.0


@pytest.fixture(autouse=True)
def short_measuring(monkeypatch):
    monkeypatch.setattr(pipeline, "LEAST_MEASURING_S", 0.3)


@pytest.fixture(scope="module")
def mlp():
    return support.digits_mlp()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One store for all tests: what one has made, the others need not."""
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def run(mlp, kept, tmp_path):
    def run(original=None, data=None, *, store=kept, labels=None, **options):
        arguments = {"passes": QUICK, "time_budget_s": 60.0} | options
        return compress(
            original or mlp[0],
            data or mlp[1],
            Options(**arguments),
            store=store,
            out=tmp_path / "families",
            command="gearshift compress digits.onnx",
            labels=labels,
        )

    return run


@pytest.fixture(autouse=True)
def short_turns(monkeypatch, request):
    """A fifth of the time budget goes into measuring: here a moment of it."""
    if "whole" not in request.node.name:
        monkeypatch.setattr(pipeline, "MEASURING_SHARE", 0.0)


def test_the_family_is_what_the_manifest_says(run, mlp, tmp_path):
    original, data = mlp
    outcome = run()
    artifact = open_family(outcome.folder)
    assert artifact.family == outcome.family
    assert outcome.folder == tmp_path / "families" / "digits-mlp" / "1"
    assert artifact.family.inputs == original.inputs
    variants = artifact.family.variants
    assert len(variants) >= 2
    assert {path.name for path in outcome.folder.iterdir()} == {
        "family.json", "report.json", "report.html", "report.png", *(variant.file for variant in variants)
    }  # fmt: skip
    for variant in variants:
        session = artifact.load(variant)
        content = artifact.read(variant)
        assert (variant.size_bytes, variant.sha256) == (len(content), digest_of(content))
        (scores,) = session.run(data.test.inputs).values()
        assert variant.accuracy == pytest.approx((scores.argmax(axis=1) == data.test.labels).mean())
        assert variant.recipe.keys() >= {
            "steps", "seed", "command", "host", "versions", "ratios", "original_sha256", "data_sha256"
        }  # fmt: skip
        assert variant.recipe["original_sha256"] == digest_of(original.content)
        assert variant.recipe["data_sha256"] == data.digest
        assert variant.recipe["versions"].keys() >= {"python", "onnxruntime", "onnx"}
        assert variant.evidence.samples == len(data.test)
        assert variant.evidence.metric == "top-1"
    assert artifact.family.variant("original").recipe["steps"] == []
    smallest = min(variants, key=lambda variant: variant.size_bytes)
    assert smallest.size_bytes < 0.3 * len(original.content)
    assert [step["pass"] for step in smallest.recipe["steps"]] == ["weight-only"]


def test_the_report_has_the_figures_of_all_that_was_measured(run, mlp):
    outcome = run()
    facts = json.loads((outcome.folder / "report.json").read_text(encoding="utf-8"))
    base = next(each for each in facts["variants"] if each["name"] == "original")
    assert facts["original"]["sha256"] == mlp[0].sha256
    assert facts["data"]["rows"] == {name: len(getattr(mlp[1], name)) for name in ("train", "validation", "test")}
    assert facts["spent_s"] > 0
    for each in facts["variants"]:
        low, high = each["interval"]
        assert low <= each["accuracy"] <= high
        assert each["latency_ms"]["1"]["median_ms"] > 0
        assert each["busy_latency_ms"].keys() == each["latency_ms"].keys()
        assert each["energy_mj"] > 0
        assert each["ratios"]["size"] == each["size_bytes"] / base["size_bytes"]
        assert each["ratios"]["accuracy_loss"] == base["accuracy"] - each["accuracy"]
        assert math.isfinite(each["kl_nats"])
    told = {each["name"] for each in (*facts["variants"], *facts["dropped"])}
    assert {"original", "half", "w8", "w4", "dyn8"} <= told
    assert len(facts["variants"]) + len(facts["dropped"]) == len(told), "each is told of once"


def test_the_same_again_is_the_next_version_and_makes_nothing(run, tmp_path, kept):
    first = run()
    before = {path: path.stat().st_mtime_ns for path in kept.folder("").parent.rglob("*") if path.is_file()}
    second = run()
    after = {path: path.stat().st_mtime_ns for path in kept.folder("").parent.rglob("*") if path.is_file()}
    assert before == after
    assert (first.family.version, second.family.version) == ("1", "2")
    assert first.family.variants == second.family.variants
    assert not open_repository(tmp_path / "families").refused


@pytest.mark.parametrize(
    ("there", "expected"),
    [((), "1"), (("1", "2"), "3"), (("9", "10", ".staging-1-ab"), "11"), (("\u00b2", "new"), "1")],
)
def test_the_next_version(tmp_path, there, expected):
    for name in there:
        (tmp_path / "model" / name).mkdir(parents=True)
    assert next_version(tmp_path, "model") == expected


def test_what_is_too_large_is_not_published_the_original_included(run, mlp):
    limit = int(0.6 * len(mlp[0].content))
    outcome = run(max_size_bytes=limit)
    assert all(variant.size_bytes <= limit for variant in outcome.family.variants)
    whys = {entry.name: entry.why for entry in outcome.report.entries if not entry.kept}
    assert whys["original"] == f"{len(mlp[0].content):,} bytes: {limit:,} are allowed"


def test_what_loses_too_much_is_not_published(run):
    free, strict = run(), run(max_accuracy_loss=0.0)
    base = strict.report.original.accuracy
    assert all(variant.accuracy >= base for variant in strict.family.variants)
    lost = {entry.name for entry in free.report.entries if entry.accuracy < base}
    assert not lost & {variant.name for variant in strict.family.variants}


def test_gates_that_leave_nothing_say_what_comes_nearest(run, tmp_path):
    with pytest.raises(CompressError) as caught:
        run(max_size_bytes=1000)
    assert "no variant passes the gates: 1,000 bytes are allowed, and the smallest made has 1" in str(caught.value)
    assert str(caught.value).endswith("Allow more, or give it more time")
    assert not (tmp_path / "families").exists()


@pytest.mark.parametrize(
    ("place", "writes"), [(repository, "_write"), (store_module, "write_whole")], ids=["repository", "store"]
)
def test_a_full_disk_leaves_nothing_behind(run, tmp_path, monkeypatch, place, writes):
    real, written = getattr(place, writes), []

    def full(path, content):
        written.append(path)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(place, writes, full)
    with pytest.raises((OSError, RepositoryError), match="No space left on device"):
        run(store=Store(tmp_path / "store"))
    assert list((tmp_path / "families").rglob("*")) in ([], [tmp_path / "families" / "digits-mlp"])
    monkeypatch.setattr(place, writes, real)
    assert run(store=Store(tmp_path / "store")).family.version == "1"


def test_without_labels_agreement_is_measured(run, mlp):
    original, data = mlp
    rows = Rows({"pixels": np.concatenate([data.train.inputs["pixels"][:400], data.test.inputs["pixels"]])}, None)
    family = run(original, split(rows)).family
    assert {variant.evidence.metric for variant in family.variants} == {"agreement"}
    assert "against the original's answers" in family.variants[0].evidence.dataset
    assert family.variant("original").accuracy == 1.0


def test_class_names_are_published(run):
    names = tuple(f"digit {number}" for number in range(10))
    outcome = run(labels=names)
    assert open_family(outcome.folder).family.outputs[0].labels == names


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (("a", "b"), "2 labels for 10 classes"),
        ((*tuple("abcdefghi"), ""), "none is empty"),
        (tuple("abcdefghia"), "no two are the same"),
    ],
)
def test_class_names_are_checked_before_the_work(run, labels, text):
    with pytest.raises(CompressError, match=text):
        run(labels=labels, passes=("no pass is looked at",))


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(run, tmp_path):
    (tmp_path / "families").write_text("a file")
    with pytest.raises(CompressError, match="is a file; name a folder"):
        run(passes=("no pass is looked at",))


def _small(nodes, inputs, initializers):
    graph = helper.make_graph(
        nodes,
        "small",
        inputs,
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = Session(content)
    return Original("small", content, session.inputs, session.outputs[0])


def test_texts_of_any_length_keep_their_axis_and_their_padding(run):
    random = np.random.default_rng(0)
    original = _small(
        [
            helper.make_node("Gather", ["words", "ids"], ["embedded"]),
            helper.make_node("ReduceMean", ["embedded"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["mean", "w"], ["hidden"], name="first"),
            helper.make_node("MatMul", ["hidden", "head"], ["scores"], name="head"),
        ],
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "length"])],
        {
            "words": random.normal(size=(300, 64)).astype(np.float32),
            "w": random.normal(size=(64, 64)).astype(np.float32),
            "head": random.normal(size=(64, 6)).astype(np.float32),
        },
    )
    padded = original.inputs[0].model_copy(update={"padding": Padding(axis=1, buckets=(8, 16))})
    original = Original("small", original.content, (padded,), original.output)
    data = split(Rows({"ids": random.integers(300, size=(400, 12))}, None))
    outcome = run(original, data, passes=("simplify", *QUICK, "fuse"))
    artifact = open_family(outcome.folder)
    assert artifact.family.inputs == (padded,)
    assert len(artifact.family.variants) > 1
    for variant in artifact.family.variants:
        for length in (1, 30):
            ids = random.integers(300, size=(3, length))
            assert artifact.load(variant).run({"ids": ids})["scores"].shape == (3, 6)


def test_models_of_several_inputs_are_compressed(run):
    random = np.random.default_rng(0)
    original = _small(
        [
            helper.make_node("MatMul", ["a", "wa"], ["left"], name="left"),
            helper.make_node("MatMul", ["b", "wb"], ["right"], name="right"),
            helper.make_node("Add", ["left", "right"], ["both"]),
            helper.make_node("MatMul", ["both", "head"], ["scores"], name="head"),
        ],
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 40]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 30]),
        ],
        {
            "wa": random.normal(size=(40, 96)).astype(np.float32),
            "wb": random.normal(size=(30, 96)).astype(np.float32),
            "head": random.normal(size=(96, 6)).astype(np.float32),
        },
    )
    rows = Rows(
        {name: random.normal(size=(400, width)).astype(np.float32) for name, width in (("a", 40), ("b", 30))}, None
    )
    family = run(original, split(rows), passes=("simplify", *QUICK)).family
    assert [spec.name for spec in family.inputs] == ["a", "b"]
    assert min(variant.size_bytes for variant in family.variants) < 0.6 * len(original.content)


@pytest.mark.timeout(400)
def test_the_whole_pipeline_with_every_pass(run, tmp_path):
    original, data = support.digits_cnn()
    outcome = run(original, data, store=Store(tmp_path / "store"), passes=NAMES, time_budget_s=WHOLE_BUDGET_S)
    assert not outcome.failed, [(each.name, each.reason) for each in outcome.failed]
    report = outcome.report
    made = {step["pass"] for entry in report.entries for step in entry.recipe}
    told = " ".join(f"{attempt.name} {attempt.why}" for attempt in report.dropped)
    labels = {
        "distill": "distill", "search": "search", "classical": "linear", "simplify": "simpl", "channels": "channels",
        "low-rank": "rank", "sparsify": "spars", "int8-static": "int8", "int8-dynamic": "dyn8", "weight-only": "w8",
        "half": "half", "fuse": "fuse",
    }  # fmt: skip
    assert labels.keys() == set(NAMES)
    assert all(name in made or label in told for name, label in labels.items()), "each made something or said why not"

    artifact = open_family(outcome.folder)
    base = artifact.family.variant("original")
    work = multiply_adds(original.model())
    figures = {
        variant.name: (
            variant.size_bytes / base.size_bytes,
            base.accuracy - variant.accuracy,
            multiply_adds(onnx.load_from_string(artifact.read(variant))) / work,
        )
        for variant in artifact.family.variants
    }
    assert any(size <= 0.3 and loss < 0.02 for size, loss, _ in figures.values()), figures
    assert any(computed <= 0.6 for _, _, computed in figures.values()), figures

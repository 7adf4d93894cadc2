import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is only installed where the text family is built")

import onnx  # noqa: E402 - after the skip
from onnx import numpy_helper  # noqa: E402

from models.manifest import MANIFEST_NAME, read_manifest, sha256_of  # noqa: E402
from models.session import Session  # noqa: E402
from models.zoo import graph  # noqa: E402
from models.zoo.errors import BuildError  # noqa: E402
from models.zoo.text import build as module  # noqa: E402
from models.zoo.text.build import BUCKETS, build  # noqa: E402
from models.zoo.text.data import Names  # noqa: E402
from models.zoo.text.nets import CharacterTransformer, NetPlan  # noqa: E402
from models.zoo.text.train import Run  # noqa: E402

PLAN = NetPlan(
    make=lambda: CharacterTransformer(16, layers=1, heads=2, buckets=64, table=8),
    design="tiny",
    epochs=1,
    peak_rate=0.1,
    committees=(2, 1),
)


def random_names(part):
    random = np.random.default_rng(len(part))
    texts = tuple("".join(random.choice(list("aeiou xyz"), size=random.integers(3, 40))) for _ in range(60))
    return Names(texts, random.integers(0, 32, 60))


@pytest.fixture
def one_net(monkeypatch, tmp_path):
    """A zoo of a small net with random weights, on random names: the folder of its weights, and both members."""
    monkeypatch.setattr(module, "NETS", {"tiny": PLAN})
    monkeypatch.setattr(module, "load", random_names)
    work = tmp_path / "work"
    work.mkdir()
    nets = []
    for member in range(2):
        torch.manual_seed(member)
        net = PLAN.make()
        with torch.no_grad():
            net.ngrams.table.weight.mul_(50)  # as training would: the answers must depend on the text
            net.head.weight.mul_(5)
        run = dataclasses.asdict(
            Run(f"tiny.{member}", "tiny", epochs=1, seed=member, peak_rate=0.1, table_rate=0.1, weight_decay=0.0)
        )
        torch.save({"run": run, "weights": net.state_dict(), "seconds": 90.0}, work / f"tiny.{member}.pt")
        nets.append(net.eval())
    return work, nets


def test_the_family_holds_each_committee_with_what_was_measured(one_net, tmp_path):
    work, nets = one_net
    out = tmp_path / "family" / "1"
    build(work, out)
    family = read_manifest(out / MANIFEST_NAME)
    assert {variant.name for variant in family.variants} == {"tiny", "tiny-x2"}
    assert {file.name for file in out.parent.iterdir()} == {"1"}
    assert family.inputs[0].padding is not None
    assert family.inputs[0].padding.buckets == BUCKETS

    names = random_names("test")
    ids = names.ids()
    with torch.inference_mode():
        each = [torch.softmax(net(torch.tensor(ids)), dim=1).numpy() for net in nets]
    product = np.sqrt(each[0] * each[1])
    for name, expected in (("tiny", each[0]), ("tiny-x2", product / product.sum(axis=1, keepdims=True))):
        variant = family.variant(name)
        assert np.ptp(expected, axis=0).max() > 0.1
        assert sha256_of(out / variant.file) == variant.sha256
        found = Session((out / variant.file).read_bytes()).run({"ids": ids})["probabilities"]
        assert found == pytest.approx(expected, abs=0.01)
        assert variant.accuracy == np.mean(found.argmax(axis=1) == names.labels)
    training = family.variant("tiny-x2").recipe["training"]
    assert (training["minutes"], training["seeds"]) == (3.0, [0, 1])
    assert family.variant("tiny").recipe["training"]["seeds"] == [0]


def test_tables_are_int8_and_nothing_else_is(one_net, tmp_path):
    build(one_net[0], tmp_path / "1")
    graph = onnx.load(str(tmp_path / "1" / "tiny-x2.onnx")).graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    tables = [values for values in constants.values() if values.ndim == 2 and len(values) > 500]
    assert [str(table.dtype) for table in tables] == ["int8", "int8"]
    assert all(np.abs(table).max() == 127 for table in tables)
    assert not any(values.dtype == np.int8 and values.ndim == 2 and len(values) < 500 for values in constants.values())


def test_a_failed_build_leaves_the_old_family(one_net, tmp_path):
    work, _ = one_net
    out = tmp_path / "1"
    out.mkdir()
    (out / "old").write_text("old")
    (work / "tiny.1.pt").unlink()
    with pytest.raises(BuildError, match=r"tiny\.1\.pt is missing: python -m models\.zoo\.text\.train --nets tiny"):
        build(work, out)
    assert [file.name for file in out.iterdir()] == ["old"]


def test_a_graph_that_computes_something_else_is_refused(one_net, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "GREATEST_DIFFERENCE", -1.0)
    with pytest.raises(BuildError, match="differs from PyTorch"):
        build(one_net[0], tmp_path / "1")
    assert not (tmp_path / "1").exists()

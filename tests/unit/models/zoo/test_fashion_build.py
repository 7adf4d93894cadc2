import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is only installed where the demo family is built")

from models.manifest import MANIFEST_NAME, read_manifest, sha256_of  # noqa: E402 - after the skip
from models.session import Session  # noqa: E402
from models.zoo import graph  # noqa: E402
from models.zoo.errors import BuildError  # noqa: E402
from models.zoo.fashion import build as module  # noqa: E402
from models.zoo.fashion.build import build  # noqa: E402
from models.zoo.fashion.data import Images  # noqa: E402
from models.zoo.fashion.nets import COMMITTEE, FP32, INT8, INT8_MIRRORED, NetPlan, Normalise, ResidualNet, Served  # noqa: E402
from models.zoo.fashion.train import Run  # noqa: E402

PLAN = NetPlan(
    make=lambda: ResidualNet(4),
    design="tiny",
    cycles=(1,),
    peak_rate=0.1,
    weight_decay=0.0,
    bfloat16=False,
    forms=(FP32, INT8, INT8_MIRRORED, COMMITTEE),
)


def random_images(half, folder=None):
    random = np.random.default_rng(1 if half == "train" else 2)
    pixels = random.integers(0, 256, (120, 28, 28), dtype=np.uint8)
    return Images(pixels=pixels, labels=random.integers(0, 10, 120, dtype=np.uint8))


@pytest.fixture
def one_net(monkeypatch, tmp_path):
    """A zoo of one small net with random weights, on random images: the folder of its weights, and the net."""
    monkeypatch.setattr(module, "NETS", {"tiny": PLAN})
    monkeypatch.setattr(module, "load", random_images)
    monkeypatch.setattr(module, "HELD_OUT", 20)
    torch.manual_seed(0)
    net = PLAN.make()
    with torch.no_grad():
        for _ in range(30):  # Settles the batch statistics, so that its answers depend on the image.
            net(Normalise()(torch.tensor(random_images("train").pixels)))
    run = Run("tiny", cycles=(1,), seed=0, peak_rate=0.1, weight_decay=0.0).facts()
    work = tmp_path / "work"
    work.mkdir()
    snapshots = [PLAN.make().state_dict(), net.state_dict()]
    torch.save({"run": run, "weights": net.state_dict(), "snapshots": snapshots, "seconds": 90.0}, work / "tiny.pt")
    return work, net.eval()


def test_family_holds_each_precision_with_what_was_measured(one_net, tmp_path):
    work, net = one_net
    out = tmp_path / "family" / "1"
    build(work, out)
    family = read_manifest(out / MANIFEST_NAME)
    assert {variant.name for variant in family.variants} == {
        "tiny-fp32",
        "tiny-int8",
        "tiny-int8-mirror",
        "tiny-fp32-committee-mirror",
        "linear",
    }
    assert {file.name for file in out.parent.iterdir()} == {"1"}

    images = random_images("test")
    for name, mirrored, tolerance in (
        ("tiny-fp32", False, 1e-5),
        ("tiny-int8", False, 0.01),
        ("tiny-int8-mirror", True, 0.01),
    ):
        variant = family.variant(name)
        with torch.inference_mode():
            expected = Served(net, mirrored=mirrored).eval()(torch.tensor(images.pixels)).numpy()
        assert np.ptp(expected, axis=0).max() > 2 * tolerance
        assert sha256_of(out / variant.file) == variant.sha256
        found = Session((out / variant.file).read_bytes()).run({"image": images.pixels})["probabilities"]
        assert found == pytest.approx(expected, abs=tolerance)
        assert variant.accuracy == np.mean(found.argmax(axis=1) == images.labels)
        assert variant.recipe["training"]["minutes"] == 1.5
    assert [step["pass"] for step in family.variant("tiny-int8").recipe["steps"]] == ["int8-static"]
    assert "steps" not in family.variant("tiny-fp32").recipe
    assert family.variant("tiny-fp32-committee-mirror").recipe["nets"] == 2


def test_int8_convolves_in_int8_and_pre_processes_in_float(one_net, tmp_path):
    import onnx

    work, _ = one_net
    build(work, tmp_path / "1")
    model = onnx.load(str(tmp_path / "1" / "tiny-int8.onnx"))
    makers = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions
    assert all(makers[node.input[0]].op_type == "DequantizeLinear" for node in convolutions)
    assert all(
        makers[name].op_type != "DequantizeLinear"
        for node in model.graph.node
        if node.op_type in ("Cast", "Mul", "Sub")
        for name in node.input
        if name in makers
    )


def test_a_failed_build_leaves_the_old_family(one_net, tmp_path):
    work, _ = one_net
    out = tmp_path / "1"
    build(work, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    (work / "tiny.pt").unlink()
    with pytest.raises(BuildError, match=r"tiny\.pt is missing: python -m models\.zoo\.fashion\.train --nets tiny"):
        build(work, out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_graph_that_computes_something_else_is_refused(one_net, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "GREATEST_DIFFERENCE", -1.0)
    with pytest.raises(BuildError, match="differs from PyTorch"):
        build(one_net[0], tmp_path / "1")
    assert not (tmp_path / "1").exists()

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is only installed where the demo families are built")

from models.session import Session  # noqa: E402 - after the skip
from models.zoo.errors import BuildError  # noqa: E402
from models.zoo.graph import export, require_agreement  # noqa: E402

ROWS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


class Net(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.head = torch.nn.Linear(4, 2)

    def forward(self, values):
        return torch.softmax(self.head(values), dim=1)


@pytest.fixture(scope="module")
def exported():
    return export(Net().eval(), ROWS, takes="values", gives="classes", free={0: torch.export.Dim("rows")})


def test_the_graph_computes_what_the_net_does_for_any_number_of_rows(exported):
    session = Session(exported.SerializeToString())
    for rows in (ROWS, np.repeat(ROWS, 5, axis=0)):
        with torch.inference_mode():
            expected = Net()(torch.tensor(rows)).numpy()
        assert session.run({"values": rows})["classes"] == pytest.approx(expected, abs=1e-6)


def test_the_graph_tells_nothing_of_where_it_was_made(exported):
    assert b"stack_trace" not in exported.SerializeToString()
    assert __file__.encode() not in exported.SerializeToString()


def test_a_graph_that_agrees_passes_and_another_does_not(exported):
    require_agreement(exported, Net().eval(), ROWS)
    with pytest.raises(BuildError, match=r"differs from PyTorch by .* for an input of shape \[3, 4\]"):
        require_agreement(exported, Net(seed=1).eval(), ROWS)


def test_further_examples_must_have_the_same_answers(exported):
    require_agreement(exported, Net().eval(), ROWS, ROWS.copy())
    with pytest.raises(BuildError):
        require_agreement(exported, Net().eval(), ROWS, ROWS + 1)

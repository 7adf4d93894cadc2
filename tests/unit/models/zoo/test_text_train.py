import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is only installed where the text family is trained")

from models.zoo.text.data import Names  # noqa: E402
from models.zoo.text.nets import LENGTH, NETS, CharacterTransformer, NetPlan, NgramNet, NgramTable  # noqa: E402
from models.zoo.text.tokens import CHARACTERS, FIRST, PADDING, UNKNOWN  # noqa: E402
from models.zoo.text.train import WARM_UP, NameCourse, Run, accuracy, batches, mask, train, trimmed  # noqa: E402

PLAN = NetPlan(
    make=lambda: CharacterTransformer(8, layers=1, heads=2, buckets=64, table=4),
    design="tiny",
    epochs=3,
    peak_rate=0.01,
)
RUN = Run(
    "tiny", "tiny", epochs=3, seed=7, peak_rate=0.01, table_rate=0.02, weight_decay=0.1, batch_rows=16, masked=0.1
)


def few_names(count=120):
    random = np.random.default_rng(1)
    texts = tuple("".join(random.choice(list("abcdefgh"), size=random.integers(2, 9))) for _ in range(count))
    return Names(texts, random.integers(0, 32, count))


def random_ids(rows, length, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST, CHARACTERS, (rows, length), generator=random)


def test_tables_learn_at_their_own_rate_and_do_not_decay():
    net = PLAN.make()
    layers, tables = RUN.optimizer(net).param_groups
    assert [weights is net.ngrams.table.weight for weights in tables["params"]] == [True]
    assert len(layers["params"]) + 1 == len(list(net.parameters()))
    assert (layers["peak"], layers["weight_decay"]) == (0.01, 0.1)
    assert (tables["peak"], tables["weight_decay"]) == (0.02, 0.0)
    course = NameCourse(RUN, PLAN, few_names(), few_names())
    course.set_rates(RUN.epochs * WARM_UP)
    assert [group["lr"] for group in course.optimizer.param_groups] == pytest.approx([0.01, 0.02])


def test_batches_hold_each_text_at_most_once_and_like_lengths():
    ids = random_ids(4_000, 60)
    for row, length in enumerate(torch.randint(1, 61, (4_000,), generator=torch.Generator().manual_seed(1))):
        ids[row, length:] = PADDING
    made = batches(ids, 32, torch.Generator().manual_seed(2))
    places = torch.cat(list(made)).tolist()
    assert len(set(places)) == len(places) == 4_000
    lengths = (ids != PADDING).sum(dim=1)
    spread = np.mean([int(lengths[batch].max() - lengths[batch].min()) for batch in made])
    assert spread < 10
    again = batches(ids, 32, torch.Generator().manual_seed(3))
    assert not all(torch.equal(a, b) for a, b in zip(made, again, strict=True))


def test_fewer_texts_than_a_batch_are_one_batch():
    (only,) = batches(random_ids(5, 4), 32, torch.Generator())
    assert sorted(only.tolist()) == [0, 1, 2, 3, 4]


def test_trimming_takes_away_padding_only():
    ids = torch.tensor([[5, 6, 0, 0], [7, 0, 0, 0]])
    assert trimmed(ids).tolist() == [[5, 6], [7, 0]]
    assert trimmed(torch.zeros((2, 3), dtype=torch.int64)).shape == (2, 1)


def test_a_share_of_the_characters_becomes_unknown_but_no_padding():
    ids = random_ids(100, 50)
    ids[:, 25:] = PADDING
    masked = mask(ids, 0.2, torch.Generator().manual_seed(0))
    assert (masked[:, 25:] == PADDING).all()
    changed = masked != ids
    assert (masked[changed] == UNKNOWN).all()
    assert changed[:, :25].float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert torch.equal(mask(ids, 0.0, torch.Generator()), ids)


def test_what_was_trained_is_learnt(tmp_path):
    texts = ("aaaa", "bbbb", "cccc", "dddd") * 8
    names = Names(texts, np.tile(np.arange(4), 8))
    plan = NetPlan(make=lambda: NgramNet(2, 64, 8), design="tiny", epochs=20, peak_rate=0.1)
    run = dataclasses.replace(RUN, epochs=20, peak_rate=0.1, table_rate=0.1, batch_rows=8, masked=0.0)
    state = torch.load(train(run, plan, names, names, tmp_path), weights_only=True)
    assert state["validation_accuracy"] == 1.0
    net = plan.make()
    net.load_state_dict(state["weights"])
    assert accuracy(net, torch.tensor(names.ids()), torch.tensor(names.labels)) == 1.0


@pytest.mark.parametrize("name", NETS)
def test_an_answer_does_not_depend_on_padding_or_neighbours(name):
    torch.manual_seed(0)
    net = NETS[name].make().eval()
    with torch.inference_mode():
        for weights in net.parameters():  # the vectors are small at first: too quiet to tell a difference
            weights.mul_(5 if weights.ndim == 2 else 1)
        ids = random_ids(3, 11)
        ids[1, 4:] = PADDING
        alone = torch.cat([net(trimmed(row[None])) for row in ids])
        together = net(ids)
        filled = net(torch.nn.functional.pad(ids, (0, LENGTH - 11)))
        assert together.std(dim=0).max() > 0.01
        assert torch.allclose(together, alone, atol=1e-4)
        assert torch.allclose(filled, alone, atol=1e-4)
        nothing = net(torch.zeros((1, 16), dtype=torch.int64))
        assert nothing.isfinite().all()


def test_an_ngram_is_known_by_its_characters_in_their_order():
    table = NgramTable(order=3, buckets=100_003, width=4)
    ids = torch.tensor([[5, 6, 7], [7, 6, 5], [8, 6, 7], [5, 6, 7]])
    with torch.inference_mode():
        table.table.weight[1:] = torch.randn(table.table.weight.shape)[1:]
        found = table(ids)
        assert found.shape == (4, 3, 3, 4)
        assert torch.equal(found[0], found[3])
        trigrams = found[:, 2, 2]
        assert not torch.equal(trigrams[0], trigrams[1])
        assert not torch.equal(trigrams[0], trigrams[2])
        assert torch.equal(found[0, 1, 2], found[2, 1, 2])  # both end in the 2-gram 6, 7
        assert (table(torch.zeros((1, 4), dtype=torch.int64)) == 0).all()

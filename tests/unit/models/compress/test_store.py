"""What was made before is found again, or not at all."""

import pytest

from models.compress.store import Store, key_of


def test_an_entry_comes_back_as_it_was_kept(tmp_path):
    store = Store(tmp_path)
    key = key_of("original", 1, {"a": 1, "b": 2})
    assert store.recall(key) is None
    store.keep(key, {"seconds": 1.5}, b"model")
    entry = Store(tmp_path).recall(key_of("original", 1, {"b": 2, "a": 1}))
    assert entry is not None
    assert (entry.content, entry.facts) == (b"model", {"seconds": 1.5})


def test_facts_alone_can_be_kept(tmp_path):
    store = Store(tmp_path)
    store.keep(key_of("x"), {"reason": "no"})
    entry = store.recall(key_of("x"))
    assert entry is not None
    assert (entry.content, entry.facts) == (None, {"reason": "no"})


@pytest.mark.parametrize("damage", [b"", b"other bytes", None])
def test_a_damaged_model_is_not_returned(tmp_path, damage):
    store, key = Store(tmp_path), key_of("x")
    store.keep(key, {}, b"model")
    file = next(tmp_path.rglob("*.onnx"))
    file.write_bytes(damage) if damage is not None else file.unlink()
    assert store.recall(key) is None


def test_torn_facts_are_no_entry(tmp_path):
    store, key = Store(tmp_path), key_of("x")
    store.keep(key, {"a": 1}, b"model")
    next(tmp_path.rglob("*.json")).write_text('{"sha256": "ab')
    assert store.recall(key) is None


def test_nothing_half_written_stays_when_the_disk_refuses(tmp_path, monkeypatch):
    store, key = Store(tmp_path), key_of("x")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        store.keep(key, {}, b"model")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_another_fact_is_another_key():
    assert key_of("a", 1) != key_of("a", 2)

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving import ledger as module
from serving.config import ModelSettings
from serving.ledger import Agreement, Ledger, LedgerError

MODELS = {"m": {"1": "digest"}}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path, ModelSettings())


def test_nothing_is_agreed_before_somebody_has(ledger: Ledger) -> None:
    assert ledger.read() is None
    assert not ledger.changed()


def test_each_change_is_a_generation_that_others_see(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path, ModelSettings())
    assert ledger.agree(lambda _: MODELS) == Agreement(1, MODELS)
    assert other.changed()
    assert other.read() == Agreement(1, MODELS)
    assert not other.changed()
    assert other.agree(lambda models: {**models, "n": {"2": "x"}}) == Agreement(2, {**MODELS, "n": {"2": "x"}})
    assert ledger.changed()


def test_what_changes_nothing_is_no_generation(ledger: Ledger) -> None:
    assert ledger.agree(lambda _: {}).generation == 1, "that nothing is served can be agreed on too"
    assert ledger.agree(lambda models: models).generation == 1


def test_other_settings_make_another_agreement(ledger: Ledger, tmp_path: Path) -> None:
    ledger.agree(lambda _: MODELS)
    assert Ledger(tmp_path, ModelSettings(versions="all")).read() is None
    assert Ledger(tmp_path, ModelSettings(poll_s=3.0)).read() == Agreement(1, MODELS)


async def test_a_wait_ends_when_all_others_have_followed(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path, ModelSettings())
    ledger.report(0, {})
    assert await ledger.reached(1, 0.0) == [], "nobody waits for itself"
    other.report(1, {"m/1": "too large"})
    (member,) = await ledger.reached(1, 0.0)
    assert (member.name, member.failures) == (other.name, {"m/1": "too large"})
    with pytest.raises(LedgerError, match=f"not followed within 0 s by: {other.name}"):
        await ledger.reached(2, 0.0)
    other.leave()
    assert await ledger.reached(2, 0.0) == []


def test_the_dead_are_not_waited_for(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path, ModelSettings())
    other.report(1, {})
    (file,) = tmp_path.rglob("members/*.json")
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"born_s": told["born_s"] - 100.0}))  # the same number, another process
    assert told["pid"] == os.getpid()
    assert ledger.others() == []
    assert not file.exists()


def test_one_leads_until_it_ends_in_whatever_threads(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path, ModelSettings())
    with ThreadPoolExecutor(1) as elsewhere:
        assert elsewhere.submit(ledger.lead).result()
    assert ledger.lead()
    assert not other.lead()
    ledger.leave()
    assert other.lead()
    other.leave()


def test_a_torn_agreement_is_told(ledger: Ledger, tmp_path: Path) -> None:
    ledger.agree(lambda _: MODELS)
    (file,) = tmp_path.rglob("agreed.json")
    for text in ("{", "[]", '{"generation": "x", "models": {}}', '{"generation": 1, "models": [1]}'):
        file.write_text(text)
        with pytest.raises(LedgerError, match="cannot be read"):
            ledger.read()


def test_a_lock_that_stays_taken_is_told(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.05)
    (folder,) = (path.parent for path in tmp_path.rglob("members"))
    with module.FileLock(folder / "agreed.lock"), pytest.raises(LedgerError, match="locked by another replica"):
        ledger.agree(lambda _: MODELS)

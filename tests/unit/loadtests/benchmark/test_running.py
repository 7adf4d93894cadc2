import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from loadtests.benchmark.running import StartError, running
from loadtests.benchmark.servers import ServerSpec, free_place


@pytest.fixture
def place():
    return free_place(Path("unused.onnx"))


def gone(processes):
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


@pytest.mark.server
def test_a_server_is_ready_inside_the_block_and_gone_after_it(stub, place, tmp_path):
    spec = stub()
    with running(spec, place, tmp_path, {}) as tree:
        members = tree.members()
        assert httpx.get(spec.url(place, spec.ready_path), trust_env=False).status_code == 200
    assert members
    assert gone(members)
    assert (tmp_path / "stub.log").read_text().startswith(f"stub starts none port {place.port}")


@pytest.mark.server
def test_an_extra_environment_wins_over_the_table(stub, place, tmp_path):
    with running(stub(), place, tmp_path, {"STUB_NOTE": "from the caller"}):
        pass
    assert "from the caller" in (tmp_path / "stub.log").read_text()


@pytest.mark.server
def test_a_server_that_ends_early_fails_with_its_code_and_its_last_words(stub, place, tmp_path):
    with pytest.raises(StartError, match="ended with 7 before it was ready\nstub starts exit"):  # noqa: SIM117
        with running(stub("exit"), place, tmp_path, {}):
            pytest.fail("it never was ready")


@pytest.mark.server
def test_a_server_that_is_never_ready_is_stopped_at_its_limit(stub, place, tmp_path):
    with pytest.raises(StartError, match=r"not ready after 0\.5 s"):  # noqa: SIM117
        with running(stub("unready", start_timeout_s=0.5), place, tmp_path, {}):
            pytest.fail("it never was ready")
    assert not [c for c in psutil.Process().children() if str(place.port) in " ".join(c.cmdline())]


def test_a_command_that_does_not_exist_is_a_start_error(place, tmp_path):
    spec = ServerSpec(name="ghost", about="", argv=("no-such-program-anywhere",))
    with pytest.raises(StartError, match="cannot run no-such-program-anywhere"):  # noqa: SIM117
        with running(spec, place, tmp_path, {}):
            pytest.fail("it cannot start")


@pytest.mark.server
def test_an_interrupt_stops_the_server_and_goes_on(stub, place, tmp_path):
    members = []

    def interrupted():
        with running(stub(), place, tmp_path, {}) as tree:
            members.extend(tree.members())
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert members
    assert gone(members)

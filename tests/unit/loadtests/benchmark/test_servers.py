import socket
import sys
from pathlib import Path

import pytest

from loadtests.benchmark.servers import ROOT, SERVERS, Place, ServerSpec, free_place, pick

PLACE = Place(Path("/models/mlp.onnx"), 4001, 4002)


@pytest.mark.parametrize("spec", SERVERS, ids=lambda spec: spec.name)
def test_every_command_line_fills_in_and_listens_on_the_port_of_its_place(spec):
    command = spec.command(PLACE)
    assert command[0] == sys.executable
    assert "4001" in command
    assert not [word for word in command if "{" in word]
    everything = [*command, *spec.environment(PLACE, {}, {}).values()]
    assert "/models/mlp.onnx" in everything
    assert spec.url(PLACE, spec.infer_path) == "http://127.0.0.1:4001/v2/models/mlp/infer"


@pytest.mark.parametrize("spec", [spec for spec in SERVERS if "{peers}" in spec.argv], ids=lambda spec: spec.name)
def test_every_peer_is_a_file_of_the_peers_folder(spec):
    module = next(word.split(":")[0] for word in spec.argv if word.endswith(":app"))
    assert (ROOT / "loadtests" / "peers" / f"{module}.py").is_file()


def test_gearshift_is_compared_in_both_topologies_and_both_engines():
    argv = {spec.name: " ".join(spec.argv) for spec in SERVERS if spec.name.startswith("gearshift-")}
    assert "--engine inprocess" in argv["gearshift-inprocess"]
    for count in (1, 2):
        assert f"--engine ray --topology colocated --replicas {count}" in argv[f"gearshift-colocated-{count}"]
        assert f"--topology split --replicas 1 --workers {count}" in argv[f"gearshift-split-{count}"]


def test_names_are_unique_and_pick_keeps_the_order_asked_for():
    assert len({spec.name for spec in SERVERS}) == len(SERVERS)
    names = ["ray-serve-default", "fastapi-plain-1"]
    assert [spec.name for spec in pick(names)] == names
    with pytest.raises(KeyError):
        pick(["nope"])


def test_a_callers_settings_reach_no_server_and_extra_ones_win_over_the_table():
    spec = ServerSpec(name="x", about="", argv=(), env={"A": "{port}", "B": "table"})
    inherited = {"PATH": "/bin", "RAY_ADDRESS": "auto", "GEARSHIFT_X": "1", "OMP_NUM_THREADS": "9", "A": "mine"}
    assert spec.environment(PLACE, inherited, {"B": "extra", "RAY_x": "0"}) == {
        "PATH": "/bin", "A": "4001", "B": "extra", "RAY_x": "0",
    }  # fmt: skip


def test_a_place_has_two_different_ports_that_are_free():
    place = free_place(Path("m"))
    assert place.port != place.metrics_port
    for port in (place.port, place.metrics_port):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))

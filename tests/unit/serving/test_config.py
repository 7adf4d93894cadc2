from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import config
from serving.config import ConfigError, Settings, cgroup_cores, cgroup_memory_bytes, load_settings, setting_names


def toml(folder: Path, text: str) -> Path:
    file = folder / "gearshift.toml"
    file.write_text(text, encoding="utf-8")
    return file


def error_of(file: Path | None = None, environ: dict[str, str] | None = None, **overrides: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environ or {}, overrides)
    return str(caught.value)


def test_the_defaults_are_settings() -> None:
    assert load_settings(environ={}) == Settings()


def test_each_layer_wins_over_the_one_below(tmp_path: Path) -> None:
    file = toml(tmp_path, '[server]\nhost = "file"\nhttp_port = 1\nmetrics_port = 1\n')
    environ = {"GEARSHIFT_SERVER__HTTP_PORT": "2", "GEARSHIFT_SERVER__METRICS_PORT": "2", "PATH": "/bin"}
    found = load_settings(file, environ, {"server": {"metrics_port": 3, "backlog": None}}).server
    assert (found.host, found.http_port, found.metrics_port, found.backlog) == ("file", 1 + 1, 3, 1024)


def test_the_file_may_be_named_in_the_environment(tmp_path: Path) -> None:
    file = toml(tmp_path, "[engine]\nreplicas = 7\n")
    assert load_settings(environ={"GEARSHIFT_CONFIG": str(file)}).engine.replicas == 7


def test_variables_of_other_tools_of_the_project_are_not_settings() -> None:
    assert load_settings(environ={"GEARSHIFT_FASHION_MNIST": "/data"}) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sever]\n", "there is no settings section 'sever'; did you mean 'server'?"),
        ("[server]\nhttp_prt = 1\n", "there is no setting 'server.http_prt'; did you mean 'http_port'?"),
        ("[log]\nzzz = 1\n", "there is no setting 'log.zzz'; there are: format, level, request_share"),
        ("server = 3\n", "setting 'server' is not a section; did you mean 'server'?"),
    ],
)
def test_an_unknown_name_stops_the_start_with_the_nearest(tmp_path: Path, text: str, message: str) -> None:
    assert error_of(toml(tmp_path, text)) == message


def test_an_unknown_variable_stops_the_start_with_the_nearest() -> None:
    assert error_of(environ={"GEARSHIFT_SERVER__HTTP_PROT": "1"}) == (
        "there is no setting 'server.http_prot'; did you mean 'http_port'?"
    )
    assert error_of(environ={"GEARSHIFT_HTTP_PORT": "1"}) == (
        "environment variable GEARSHIFT_HTTP_PORT is not a setting; did you mean 'GEARSHIFT_SERVER__HTTP_PORT'?"
    )


@given(st.sampled_from(setting_names()))
def test_every_setting_has_a_variable_and_a_description(name: tuple[str, str]) -> None:
    section, key = name
    assert getattr(Settings(), section).__class__.model_fields[key].description
    refused = {f"GEARSHIFT_{section}__{key}X".upper(): "1"}
    assert f"did you mean '{key}'?" in error_of(environ=refused)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("server", "http_port", "65536"),
        ("server", "http_port", "8000.5"),
        ("server", "drain_s", "0"),
        ("server", "drain_s", "inf"),
        ("engine", "kind", "docker"),
        ("engine", "replicas", "0"),
        ("scheduler", "utilization", "1.1"),
        ("scheduler", "policy", "fastest"),
        ("scheduler", "policy", "proteus:soon"),
        ("limits", "allow_nan", "perhaps"),
        ("limits", "max_queue_bytes", "-1"),
    ],
)
def test_a_wrong_value_is_named(section: str, key: str, value: str) -> None:
    message = error_of(environ={f"GEARSHIFT_{section}__{key}".upper(): value})
    assert message.startswith(f"settings: {section}.{key}: ")


def test_all_wrong_values_are_named_at_once() -> None:
    message = error_of(server={"http_port": -1}, engine={"replicas": 0})
    assert "server.http_port: " in message
    assert "engine.replicas: " in message


def test_values_of_the_environment_get_their_types() -> None:
    environ = {
        "GEARSHIFT_LIMITS__ALLOW_NAN": "true",
        "GEARSHIFT_ENGINE__WORKERS": "3",
        "GEARSHIFT_SCHEDULER__UTILIZATION": "0.5",
        "GEARSHIFT_MODELS__REPOSITORY": "/models",
    }
    found = load_settings(environ=environ)
    assert found.limits.allow_nan is True
    assert (found.engine.workers, found.scheduler.utilization) == (3, 0.5)
    assert found.models.repository == Path("/models")


def test_tls_needs_both_files() -> None:
    assert "tls_certfile and tls_keyfile go together" in error_of(server={"tls_certfile": "cert.pem"})
    both = {"tls_certfile": "cert.pem", "tls_keyfile": "key.pem"}
    assert load_settings(environ={}, overrides={"server": both}).server.tls_keyfile == Path("key.pem")


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none.toml").endswith("cannot be read: No such file or directory")
    assert "not valid TOML" in error_of(toml(tmp_path, "[server\n"))
    (tmp_path / "gearshift.toml").write_bytes(b"\xff\xfe")
    assert "not valid TOML" in error_of(tmp_path / "gearshift.toml")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError):
        Settings().server.host = "elsewhere"  # type: ignore[misc]


def test_the_workers_of_a_replica_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "usable_cores", lambda: 5)

    def of(**engine: object) -> Settings:
        return load_settings(environ={}, overrides={"engine": engine})

    assert (of().thread_workers(), of().worker_replicas()) == (5, 5)
    assert of(replicas=2).thread_workers() == 2
    assert of(replicas=9).thread_workers() == 1
    assert of(replicas=9, replicas_per_node=1).thread_workers() == 5, "on a cluster they share a node with nobody"
    assert (of(workers=3, replicas=2).thread_workers(), of(workers=3).worker_replicas()) == (3, 3)


def test_each_server_has_a_folder_of_its_own(tmp_path: Path) -> None:
    values = {"engine": {"runtime_dir": tmp_path}, "server": {"http_port": 81}}
    assert load_settings(environ={}, overrides=values).run_folder == tmp_path / "81"


@pytest.mark.parametrize(
    ("text", "cores"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("400000 100000\n", 4.0)]
)
def test_cores_of_cgroup_v2(tmp_path: Path, text: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cgroup_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("250000\n", 2.5), ("-1\n", None)])
def test_cores_of_cgroup_v1(tmp_path: Path, quota: str, cores: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_cores(tmp_path) == cores


def test_no_cgroup_no_limit(tmp_path: Path) -> None:
    assert cgroup_cores(tmp_path) is None
    assert cgroup_memory_bytes(tmp_path) is None


def test_memory_of_both_versions(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("1048576\n")
    assert cgroup_memory_bytes(tmp_path) == 1 << 20
    (tmp_path / "memory.max").write_text("2097152\n")
    assert cgroup_memory_bytes(tmp_path) == 2 << 20


@pytest.mark.parametrize("text", ["max\n", f"{psutil.virtual_memory().total * 2}\n", "9223372036854771712\n"])
def test_memory_without_a_limit_below_the_host(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.max").write_text(text)
    assert cgroup_memory_bytes(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 4), (1.5, 1), (0.5, 1), (2.0, 2), (64.0, 4)])
def test_usable_cores_are_whole_and_at_least_one(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    monkeypatch.setattr(config.os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    monkeypatch.setattr(config, "cgroup_cores", lambda: quota)
    assert config.usable_cores() == cores


def test_a_repository_is_a_path_or_a_url_also_after_a_way_over_json() -> None:
    for told, meant in (("/models", Path("/models")), ("s3://bucket/models", "s3://bucket/models"), (None, None)):
        found = load_settings(environ={}, overrides={"models": {"repository": told}})
        assert found.models.repository == meant
        assert Settings.model_validate_json(found.model_dump_json()) == found


def test_models_to_load_are_a_list_or_one_text() -> None:
    for told in (["a", "b"], "a, b", "a,b,"):
        assert load_settings(environ={}, overrides={"models": {"load": told}}).models.load == ("a", "b")


def test_versions_are_checked_when_they_are_read() -> None:
    assert load_settings(environ={"GEARSHIFT_MODELS__VERSIONS": "latest:3"}).models.versions == "latest:3"
    assert "latest:N" in error_of(models={"versions": "newest"})
    assert "models.control: " in error_of(models={"control": "now and then"})


def test_without_autoscaling_there_are_as_many_replicas_as_were_asked_for() -> None:
    assert load_settings(environ={}).autoscaling.max_replicas == 0


def test_a_model_has_targets_of_its_own_and_the_section_s_for_the_rest(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        "[autoscaling]\nmax_replicas = 4\nwindow_s = 5\n[autoscaling.models.quiet]\nmax_accuracy_forgone = 0.02\n",
    )
    found = load_settings(file, {}).autoscaling
    rules = found.rules(2)
    assert (rules.min_replicas, rules.max_replicas) == (2, 4)
    assert rules.of("quiet").max_accuracy_forgone == found.demand("quiet").tolerance == 0.02
    assert rules.of("quiet").target_busy == rules.of("other").target_busy == 0.7
    assert found.demand("other").tolerance == rules.of("other").max_accuracy_forgone == 0.005
    assert rules.window_s == found.demand("other").window_s == 5.0


def test_targets_of_models_may_come_from_the_environment_as_json() -> None:
    variables = {
        "GEARSHIFT_AUTOSCALING__MAX_REPLICAS": "3",
        "GEARSHIFT_AUTOSCALING__MODELS": '{"m": {"target_busy": 0.5}}',
    }
    assert load_settings(environ=variables).autoscaling.rules(1).of("m").target_busy == 0.5
    assert "autoscaling.models" in error_of(environ={"GEARSHIFT_AUTOSCALING__MODELS": "{"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_replicas": 2}, "min_replicas needs max_replicas"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas is below min_replicas"),
        ({"max_replicas": 2, "target_busy": 0.0}, "target_busy"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(values: dict[str, object], message: str) -> None:
    assert message in error_of(autoscaling=values)


def test_one_process_is_not_scaled() -> None:
    assert "needs engine.kind = 'ray'" in error_of(engine={"kind": "inprocess"}, autoscaling={"max_replicas": 2})


def test_colocated_replicas_that_may_come_have_their_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "usable_cores", lambda: 8)
    assert load_settings(environ={}, overrides={"autoscaling": {"max_replicas": 4}}).thread_workers() == 2


def test_models_whose_answers_are_kept_are_named() -> None:
    assert not Settings().cache.keeps("m")
    named = load_settings(environ={"GEARSHIFT_CACHE__MODELS": "m, other", "GEARSHIFT_CACHE__MAX_AGE_S": "5"}).cache
    assert [named.keeps(model) for model in ("m", "other", "third")] == [True, True, False]
    assert named.max_age_s == 5.0
    assert load_settings(environ={"GEARSHIFT_CACHE__MODELS": "*"}).cache.keeps("any")


@pytest.mark.parametrize(("text", "port"), [("off", "off"), ("8009", 8009), ("0", 0)])
def test_the_port_of_grpc_may_be_off(text: str, port: int | str) -> None:
    assert load_settings(environ={"GEARSHIFT_SERVER__GRPC_PORT": text}).server.grpc_port == port


@pytest.mark.parametrize(("one", "other"), [("http_port", "metrics_port"), ("grpc_port", "http_port")])
def test_two_services_do_not_share_a_port(one: str, other: str) -> None:
    """They would share its socket, and each answer the callers of the other."""
    told = error_of(server={one: 8123, other: 8123})
    assert "http_port, grpc_port and metrics_port must differ" in told
    load_settings(environ={f"GEARSHIFT_SERVER__{name.upper()}": "0" for name in (one, other)})


def test_another_word_for_the_port_of_grpc_is_told() -> None:
    with pytest.raises(ConfigError, match=r"server\.grpc_port"):
        load_settings(environ={"GEARSHIFT_SERVER__GRPC_PORT": "maybe"})

import sys
from types import ModuleType

import pytest

from deployments.options import FOREIGN, VARIABLES, EnvironmentFixedError, configure_environment


def test_every_variable_is_written_and_none_twice():
    environ: dict[str, str] = {}
    configure_environment(environ=environ)
    assert {variable.name: variable.value for variable in VARIABLES}.items() <= environ.items()
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)


def test_the_caller_may_tune_but_not_open_the_cluster():
    environ = {"RAY_worker_niceness": "5", "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "known"}
    configure_environment(environ=environ)
    assert environ["RAY_worker_niceness"] == "5"
    assert environ["RAY_AUTH_MODE"] == "token"
    assert environ["RAY_AUTH_TOKEN"] != "known"


def test_each_run_has_its_own_token():
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    configure_environment(environ=first)
    configure_environment(environ=second)
    assert len(first["RAY_AUTH_TOKEN"]) == 64
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


def test_nothing_points_to_a_foreign_cluster():
    environ = dict.fromkeys(FOREIGN, "somewhere")
    configure_environment(environ=environ)
    assert not set(FOREIGN) & set(environ)


def test_user_code_gets_a_thread_of_its_own_on_request():
    environ: dict[str, str] = {}
    configure_environment(separate_user_thread=True, environ=environ)
    assert environ["RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"] == "1"
    assert environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] == "1"


def test_too_late_after_ray_was_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with pytest.raises(EnvironmentFixedError, match="before the first `import ray`"):
        configure_environment()

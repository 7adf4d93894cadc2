"""What is generated for k8s/ is committed as it is generated, and is what Ray and Kubernetes read.

In a process of its own: importing Ray Serve warns, and warnings are errors here.
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from deployments.options import VARIABLES, cluster_environment
from tests.support.manifests import read_env

ROOT = Path(__file__).parents[3]
PROBE = """
import json
from deployments.manifests import TARGETS, serve_config, settings_of
from ray._common.utils import import_attr
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

configs = {target.folder: serve_config(settings_of(target)) for target in TARGETS}
for config in configs.values():
    ServeDeploySchema.model_validate(config)
(path,) = {config["applications"][0]["import_path"] for config in configs.values()}
built = import_attr(path)({"engine": {"topology": "split", "workers": 3}})
print(json.dumps({"configs": configs, "built": isinstance(built, Application)}))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


def test_the_committed_files_are_what_the_command_writes() -> None:
    ran = python("-m", "deployments.manifests", "--check")
    assert ran.returncode == 0, f"run `python -m deployments.manifests`; these differ:\n{ran.stdout}{ran.stderr}"


def test_the_import_path_builds_and_rays_schema_takes_the_configuration() -> None:
    ran = python("-c", PROBE)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["built"]
    for folder, config in told["configs"].items():
        patch = yaml.safe_load((ROOT / "k8s" / folder / "serve-config.yaml").read_text(encoding="utf-8"))
        assert yaml.safe_load(patch["spec"]["serveConfigV2"]) == config


def test_pods_get_what_is_not_about_one_node() -> None:
    chosen = cluster_environment()
    assert read_env(ROOT / "k8s/base/ray.env") == chosen
    assert chosen["RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"] == "0"
    loopback_and_token = {variable.name for variable in VARIABLES if variable.forced} - {"RAY_USAGE_STATS_ENABLED"}
    assert not loopback_and_token & chosen.keys(), "KubeRay sets addresses and the token"

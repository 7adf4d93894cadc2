import platform

from loadtests.benchmark.facts import cpu_model, machine_facts, usable_cores


def test_the_cpu_is_called_by_its_model_name(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel\t\t: 2\nmodel name\t: A Fine CPU: 2 GHz\n")
    assert cpu_model(cpuinfo) == "A Fine CPU: 2 GHz"


def test_a_cpu_without_a_name_is_called_by_its_architecture(tmp_path):
    (tmp_path / "cpuinfo").write_text("BogoMIPS : 50.00\n")
    assert cpu_model(tmp_path / "cpuinfo") == cpu_model(tmp_path / "missing") == platform.machine()


def test_facts_name_cpu_cores_python_and_onnx_runtime():
    facts = machine_facts("some generator")
    assert facts["Python"] == platform.python_version()
    assert facts["cores"].startswith(f"{usable_cores()} ")
    assert facts["load generator"] == "some generator"
    assert facts["onnxruntime"].count(".") >= 1
    assert facts["CPU"]

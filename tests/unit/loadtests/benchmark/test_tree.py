import subprocess
import sys

import psutil
import pytest

from loadtests.benchmark.tree import ProcessTree

# Burns CPU in a child and, if told so, in a grandchild; says when it is done, then waits to be stopped.
BURN = """
import subprocess, sys, time
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=subprocess.PIPE)
    child.stdout.readline()
while time.process_time() < 0.3:
    pass
print("done", flush=True)
sys.stdin.read()
"""

# Leaves an orphan behind, in the same session, and lives on.
ORPHAN = """
import subprocess, sys
shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!"], stdout=subprocess.PIPE)
pid = shell.stdout.readline().decode()
shell.wait()
print(pid, flush=True)
sys.stdin.read()
"""

# Ends at once on SIGTERM, and leaves a child that ignores it.
STUBBORN = """
import signal, subprocess, sys
child = subprocess.Popen(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def start():
    started = []

    def run(*words):
        process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        for member in ProcessTree(process.pid).members() if process.poll() is None else []:
            member.kill()
        process.communicate()


def test_cpu_time_of_children_counts(start):
    process = start("-c", BURN, "-c", BURN)
    tree = ProcessTree(process.pid)
    assert process.stdout.readline() == b"done\n"
    assert len(tree.members()) == 2
    assert tree.cpu_s() >= 0.55  # twice 0.3 s, less two ticks of 10 ms each


def test_cpu_time_of_a_child_that_ended_still_counts(start):
    process = start("-c", BURN, "-c", BURN.replace("sys.stdin.read()", ""))
    assert process.stdout.readline() == b"done\n"
    before_s = ProcessTree(process.pid).cpu_s()
    assert before_s >= 0.25


def test_an_orphan_of_the_session_is_found_and_stopped(start):
    process = start("-c", ORPHAN)
    orphan = psutil.Process(int(process.stdout.readline()))
    tree = ProcessTree(process.pid)
    assert orphan in tree.members()
    assert orphan not in psutil.Process(process.pid).children(recursive=True)
    tree.stop(grace_s=5.0)
    assert process.poll() is not None
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def test_who_ignores_the_request_is_killed_also_after_the_root_is_gone(start):
    process = start("-c", STUBBORN)
    child = psutil.Process(int(process.stdout.readline()))
    ProcessTree(process.pid).stop(grace_s=0.2)
    assert process.poll() is not None
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_stopping_what_has_ended_is_no_error(start):
    process = start("-c", "")
    tree = ProcessTree(process.pid)
    process.wait()
    tree.stop(grace_s=0.1)
    assert tree.members() == []
    assert tree.cpu_s() == 0.0

import subprocess
import sys

CTRL_C_IN_A_GREENLET = """
import loadtests.locustfile
import gevent

def interrupted():
    raise KeyboardInterrupt

try:
    gevent.spawn(interrupted).join()
    gevent.sleep(5)
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_stops_a_run_wherever_it_falls_and_without_a_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", CTRL_C_IN_A_GREENLET], capture_output=True, text=True, timeout=60)
    assert done.stdout == "stopped\n"
    assert "Traceback" not in done.stderr

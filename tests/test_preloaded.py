"""What stands in for Python in the tests runs what Python would run, and ends as it would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from preloaded import FOLDER, PYTHON

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="elsewhere an ordinary Python runs")


@pytest.mark.parametrize(
    "code",
    [
        "import sys; print(sys.argv, __name__); print('there', file=sys.stderr); sys.exit(3)",
        "import sys; print(sys.stdin.read()); sys.exit('a sentence')",
        "import os, sys; print(os.getcwd(), os.environ['GIVEN'], sys.path[0])",
        "import atexit, threading, time; atexit.register(print, 'the end')\n"
        "threading.Thread(target=lambda: time.sleep(0.2) or print('a thread')).start()",
        "import os; os.kill(os.getpid(), 9)",
        "import sys; assert not {'spectral_toolkit', 'IPython'} & set(sys.modules)",
    ],
)
def test_it_ends_like_python(code: str, tmp_path: Path) -> None:
    def ran(*python: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [*python, "-c", code, "a", "b"],
            input="from above",
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "GIVEN": "ł"},
        )
        return done.returncode, done.stdout, done.stderr

    assert ran(*PYTHON) == ran(sys.executable)


def test_it_begins_with_the_libraries_and_takes_signals(tmp_path: Path) -> None:
    assert os.environ[FOLDER]
    (tmp_path / "script.py").write_text(
        "import os, sys, time\nprint('torch' in sys.modules, __file__, os.getpid(), flush=True)\ntime.sleep(60)\n"
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        command = [*PYTHON, "script.py"]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
            assert one.stdout is not None
            loaded, name, pid = one.stdout.readline().split()
            assert (loaded, name) == ("True", "script.py")
            process = psutil.Process(int(pid))
            one.send_signal(number)
            assert one.wait(30) == -number
        process.wait(30)

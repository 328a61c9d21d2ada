"""What vLLM prints goes to a file, and the cause of an error is found in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.captured_output import captured_output, cause_in, refers_elsewhere

CODE = """
import subprocess, sys
from pathlib import Path
from rlready.evaluators.captured_output import captured_output
print("before")
with captured_output(Path(sys.argv[1])):
    print("inside")
    child = subprocess.Popen(
        [sys.executable, "-c", "input(); print('child')"], stdin=subprocess.PIPE
    )
print("after")
child.communicate(b"\\n")
"""

# The lines of vLLM 0.32 on a CPU, shortened.
LOG = """\
INFO 11-29 09:13:02 [core.py:114] Initializing a V1 LLM engine
(EngineCore pid=9) INFO 11-29 09:13:03 [core.py:114] see ValueError: nothing
(Worker pid=10) ERROR 11-29 09:13:04 [multiproc_executor.py:890] Traceback (most recent call last):
(Worker pid=10) ERROR 11-29 09:13:04 [multiproc_executor.py:890] ValueError: Available memory on \
node 0 (16.93/18.71 GiB) on startup is less than desired CPU memory utilization (0.92, 17.21 GiB).
(EngineCore pid=9) ERROR 11-29 09:13:05 [core.py:1202] EngineCore failed to start.
(EngineCore pid=9) ERROR 11-29 09:13:05 [core.py:1202] Exception: WorkerProc initialization failed \
due to an exception in a background process. See stack trace for root cause.
(EngineCore pid=9) Process EngineCore:
"""


def test_everything_inside_goes_to_the_file_also_from_children_that_live_longer(
    tmp_path: Path,
) -> None:
    log = tmp_path / "folder" / "vllm.log"
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(log)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["before", "after"]
    assert log.read_text().split() == ["inside", "child"]


def test_the_streams_come_back_after_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        with captured_output(tmp_path / "log"):
            os.write(2, b"inside\n")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    os.write(2, b"outside\n")
    assert capfd.readouterr().err == "outside\n"


def test_the_cause_is_the_exception_that_refers_to_no_other(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOG)
    cause = cause_in(log)
    assert cause is not None
    assert cause.startswith("ValueError: Available memory on node 0 (16.93/18.71 GiB)")
    log.write_text("RuntimeError: " + "word " * 1000)
    assert len(cause_in(log) or "") <= 240


def test_a_log_without_an_exception_has_no_cause(tmp_path: Path) -> None:
    assert cause_in(tmp_path / "missing") is None
    (tmp_path / "log").write_text("INFO 11-29 [core.py:1] all is well\n")
    assert cause_in(tmp_path / "log") is None


@given(st.binary(max_size=400))
def test_any_log_is_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    log = tmp_path_factory.getbasetemp() / "any.log"
    log.write_bytes(content)
    assert "\n" not in (cause_in(log) or "")


def test_exceptions_that_only_refer_are_known() -> None:
    error = RuntimeError("Engine core initialization failed. See root cause above.")
    assert refers_elsewhere(error)
    assert not refers_elsewhere(ValueError("model type nobody is unknown"))

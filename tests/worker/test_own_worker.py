"""Our worker as a command of its own, over its own data directory: what is put under a server elsewhere."""

from __future__ import annotations

import signal
import subprocess

from conftest import BINARY, Stack, results_of, secret_file, tool


def test_it_serves_the_queue_of_a_server_elsewhere_and_drains(new_stack, tmp_path):
    stack: Stack = new_stack(arguments=["--no-worker"])
    key = secret_file(stack.environment_key + "\n")
    command = [BINARY, "worker", "--url", stack.base_url, "--environment", stack.environment_id, "--environment-key-file", str(key)]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        text, = results_of(stack, tool("bash", command="hostname; echo served-from-elsewhere"))
        assert "served-from-elsewhere" in text
        assert not (stack.data / "perimeter/work").exists(), "the server's own directory was used"
        assert list((tmp_path / ".postern/perimeter/work").iterdir())
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=40) == 0, (tmp_path / "log").read_text()[-2000:]
    finally:
        worker.kill()
        worker.wait()


def test_it_names_what_is_missing(tmp_path):
    done = subprocess.run([BINARY, "worker"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    for flag in ("--url", "--environment", "--environment-key-file"):
        assert flag in done.stderr


def test_a_key_that_the_server_refuses_ends_it_with_three(new_stack, tmp_path):
    stack: Stack = new_stack(arguments=["--no-worker"])
    key = secret_file("pst_env_wrong")
    done = subprocess.run(
        [BINARY, "worker", "--url", stack.base_url, "--environment", stack.environment_id, "--environment-key-file", str(key)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr[-2000:]
    assert "`postern up --new-keys`" in done.stderr and "`postern server --new-keys`" in done.stderr, done.stderr[-2000:]

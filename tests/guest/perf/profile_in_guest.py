"""Work on the filesystem while perf takes samples of the whole machine; runs in the guest."""

import os
import signal
import subprocess
import time

from perf_in_guest import metadata_rates

#: Long enough for a few hundred samples where a processor gives a tenth of its speed.
SECONDS = 12
START_S = 120


def record(root, output, renames, size, command):
    """Sample all processors while files are made, written, read and removed below `root`.

    One has `size` bytes, the others none. `command` is run as well, if there is one. Raises
    AssertionError when perf or the command fails.
    """
    perf = subprocess.Popen(
        ["perf", "record", "-q", "-a", "-B", "-g", "-e", "cpu-clock", "-F", "99", "-o", output],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_for(output, perf)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            metadata_rates(root, 40, renames)
            _content(f"{root}/content", size)
            if command:
                done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
                assert done.returncode == 0, f"'{command}' ended with {done.returncode}"
        early = perf.poll()
    finally:
        perf.send_signal(signal.SIGINT)
        said = perf.communicate()[0].decode(errors="replace")
    assert early is None, f"perf record ended by itself, with {early}: {said}"
    assert os.path.exists(output), f"perf record left no data: {said}"


def _wait_for(output, perf):
    """Until perf writes: under emulation starting it takes longer than the work itself."""
    until = time.monotonic() + START_S
    while not (os.path.exists(output) and os.path.getsize(output)):
        assert perf.poll() is None, f"perf record ended at once: {perf.stdout.read().decode()}"
        assert time.monotonic() < until, f"perf record did not begin within {START_S} s"
        time.sleep(0.2)


def _content(path, size):
    data = os.urandom(size)
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    with open("/proc/sys/vm/drop_caches", "w") as caches:
        caches.write("1")
    with open(path, "rb") as file:
        assert file.read() == data, "other content was read than was written"
    os.unlink(path)

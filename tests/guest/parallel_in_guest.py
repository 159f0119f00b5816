"""Several processes at once. Runs in the guest: only the standard library."""

import ast
import os
import signal
import time


def in_parallel(workers, work):
    """Run work(n) in that many processes and return what each returned, in order.

    Results must survive `repr`. The failures of all are raised here in one AssertionError.
    """
    return _collect([start(work, worker) for worker in range(workers)])


def start(work, *arguments):
    """Run work(*arguments) in a process of its own; `finish` waits for it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            _say(writer, repr(work(*arguments)))
            code = 0
        except BaseException as error:  # noqa: BLE001 - reported to the parent
            _say(writer, f"{type(error).__name__}: {error}"[:4000])
        finally:
            os._exit(code)
    os.close(writer)
    return pid, reader


def finish(child):
    """What the process returned; raises AssertionError with what it said when it failed."""
    return _collect([child])[0]


def _say(writer, text):
    data = text.encode()
    while data:
        data = data[os.write(writer, data) :]


def _collect(children):
    results, failures = [], []
    for number, (pid, reader) in enumerate(children):
        pieces = []
        while piece := os.read(reader, 1 << 16):
            pieces.append(piece)
        os.close(reader)
        _, status = os.waitpid(pid, 0)
        said = b"".join(pieces).decode(errors="replace")
        if status:
            text = said or f"ended with wait status {status}"
            failures.append(f"process {number}: {text.removeprefix('AssertionError: ')}")
        else:
            results.append(ast.literal_eval(said))
    assert not failures, "; ".join(failures)
    return results


class until_left:  # noqa: N801 - reads as a statement: with until_left(storm): ...
    """Inside, `work()` is called again and again by a process of its own; it must do so once."""

    def __init__(self, work, what):
        self.work = work
        self.what = what

    def __enter__(self):
        self.child = start(self._repeat)
        return self

    def _repeat(self):
        ended = []
        signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
        rounds = 0
        while not ended:
            self.work()
            rounds += 1
            time.sleep(0.002)
        return rounds

    def __exit__(self, kind, error, trace):
        os.kill(self.child[0], signal.SIGTERM)
        rounds = finish(self.child)
        assert kind or rounds, f"{self.what} did not happen once"
        return False

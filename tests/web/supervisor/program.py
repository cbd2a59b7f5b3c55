"""A gateway of toy children under a supervisor, as a program; each event is a line ``<kind> <child> <pid>``.

Usage: ``program.py STATE_DIR CHILD...`` where CHILD is ``redis``, ``steady``, ``stubborn``, ``slow`` or
``never``, with ``:<name>`` if it is not to be named after its kind. The word ``hangups`` has the first SIGHUP told to
the children as SIGUSR1 and taken for all that was meant, and the second not.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from common.processes import ProcessGuard
from gateway_web.supervisor import ChildSpec, Event, Supervisor, SupervisorError, find_redis, held_state_dir

TOY = """
import os, signal, sys, time
name, kind, order = sys.argv[1:]
def stop(*_):
    with open(order, "a") as file:
        file.write(name + "\\n")
    if kind == "slow":
        time.sleep(0.5)
    if kind != "stubborn":
        os._exit(0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, lambda *_: print("usr1", flush=True))
grandchild = os.fork()
print("pid", os.getpid(), flush=True)
while True:
    time.sleep(600)
"""


def toy(kind: str, name: str, state: Path) -> ChildSpec:
    """A child with a grandchild in its group, ready when both have written their process ids to the log."""
    log = state / "logs" / f"{name}.log"

    def both_up() -> bool:
        return kind != "never" and log.exists() and log.read_text().count("pid") >= 2

    return ChildSpec(
        name=name,
        argv=(sys.executable, "-I", "-S", "-c", TOY, name, kind, str(state / "order")),
        ready=both_up,
        log_path=log,
        stop_timeout=1.0 if kind == "stubborn" else 10.0,
    )


def main(state: Path, wanted: list[str]) -> int:
    """Run until a signal comes."""

    def tell(event: Event) -> None:
        print(event.kind, event.child, event.pid or 0, flush=True)

    try:
        with held_state_dir(state) as held, ProcessGuard(grace=0.5, keep_fds=(held.lock_fd,)) as guard:
            children = [_child(word, state) for word in wanted if word != "hangups"]
            hangups = iter((True, False))

            def hung_up() -> bool:
                print("told", *supervisor.signal_children(["a", "gone"], signal.SIGUSR1), 0, flush=True)
                return next(hangups)

            hangup = hung_up if "hangups" in wanted else None
            supervisor = Supervisor(children, guard, tell, on_hangup=hangup)
            number = supervisor.run(on_ready=lambda: print("all ready 0", flush=True))
            print("stopped-by", number.name if number else "request", 0, flush=True)
    except SupervisorError as error:
        print("error", error, flush=True)
        return 1
    return 0


def _child(word: str, state: Path) -> ChildSpec:
    kind, _, name = word.partition(":")
    if kind == "redis":
        spec = find_redis(None, state).child
        assert spec is not None
        return spec
    return toy(kind, name or kind, state)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))

"""``python -m benchmarks.queue_suite``: the scripts about the queue, one after the other.

``--markdown`` prints the tables of the last results for the documentation, ``--paste`` puts them there, with those of
`benchmarks.run`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import orjson

from benchmarks import data_plane, in_flight, many_tools, report, run, script, two_workers, web_classes
from benchmarks.desk import BackendKind
from benchmarks.script import Script

SCRIPTS: tuple[Script, ...] = (
    data_plane.SCRIPT,
    in_flight.SCRIPT,
    many_tools.SCRIPT,
    two_workers.SCRIPT,
)
"""What one run measures. The choice of a worker class is made once, and not part of it."""
DOCUMENTED: tuple[Script, ...] = (*SCRIPTS, web_classes.SCRIPT)


def figures() -> dict[str, str]:
    """Return by name the tables of every script that has left a result."""
    found = {
        it.name: script.markdown(it, orjson.loads(it.file.read_bytes()))
        for it in DOCUMENTED
        if it.file.is_file()
    }
    for backend in BackendKind:
        if (file := run.result_file(backend)).is_file():
            found[f"run {backend}"] = report.markdown(orjson.loads(file.read_bytes())["rows"], level=4)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all; return the exit code: 0 only if every script measured what it names."""
    parser = argparse.ArgumentParser(prog="benchmarks.queue_suite", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one short round each: do they work at all")
    parser.add_argument("--markdown", action="store_true", help="print the sections of the last results")
    parser.add_argument("--paste", action="store_true", help="put them into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    if options.markdown:
        for name, text in figures().items():
            print(f"### {name}\n\n{text}\n")
        return 0
    if options.paste:
        for name, text in figures().items():
            script.paste(name, text)
            print(f"docs/benchmarks.md: {name}")
        return 0
    return max([script.main(it, ["--smoke"] if options.smoke else []) for it in SCRIPTS])


if __name__ == "__main__":
    sys.exit(main())

"""The MCP Inspector's command line as a client: one process an operation, so it can neither cancel nor be asked."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import orjson

from tests.interop.install import CACHE, InteropPaths

Json = dict[str, Any]
TIMEOUT = 120.0
AT_ONCE = 2
METHODS = {
    "tools": "tools/list",
    "resources": "resources/list",
    "templates": "resources/templates/list",
    "prompts": "prompts/list",
    "read": "resources/read",
    "prompt": "prompts/get",
    "call": "tools/call",
}


def play_inspector(paths: InteropPaths, url: str, script: Json, era: str) -> Json:
    """Play the steps in their order, the lists and what only reads beside each other."""
    run = partial(_run, paths, url, era)
    steps = script["steps"]
    calls = [step for step in steps if step["do"] == "call"]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        called = pool.submit(lambda: [run(step) for step in calls])
        read = [pool.submit(run, step) for step in steps if step["do"] != "call"]
        answers, others = iter(called.result()), iter([future.result() for future in read])
    return {"version": None, "steps": [next(answers if step["do"] == "call" else others) for step in steps]}


def arguments_of(step: Json) -> list[str]:
    """The step as the command line takes it."""
    given = ["--method", METHODS[step["do"]]]
    if step["do"] == "call":
        return [
            *given,
            "--tool-name",
            step["name"],
            "--tool-args-json",
            orjson.dumps(step["arguments"]).decode(),
        ]
    if step["do"] == "prompt":
        pairs = [f"{name}={value}" for name, value in step["arguments"].items()]
        return [*given, "--prompt-name", step["name"], *(["--prompt-args", *pairs] if pairs else [])]
    return [*given, "--uri", step["uri"]] if step["do"] == "read" else given


def _run(paths: InteropPaths, url: str, era: str, step: Json) -> Json:
    transport = "sse" if url.endswith("/sse") else "http"
    how = ["--cli", url, "--transport", transport, "--protocol-era", era, "--format", "json", "--quiet"]
    done = subprocess.run(
        [paths.node, str(paths.inspector), *how, *arguments_of(step)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        # Nothing of it is to be kept in the home of whoever runs the tests.
        env={**os.environ, "MCP_CATALOG_PATH": str(CACHE / "interop" / "catalog.json")},
    )
    heard: Json = {"asked": [], "progress": []}
    if done.returncode != 0:
        return {"error": {"code": done.returncode, "message": done.stdout + done.stderr}, **heard}
    return {"result": orjson.loads(done.stdout)["result"], **heard}

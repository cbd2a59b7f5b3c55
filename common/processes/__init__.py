"""Child processes that never outlive us: process trees, and a guard that holds even after ``kill -9``."""

from common.processes.family import MARK_NAME
from common.processes.guard import ProcessGuard, ProcessGuardError
from common.processes.limits import no_core_dumps
from common.processes.tree import is_running, kill_tree, terminate_tree
from common.processes.words import LastWords, LastWordsTls

__all__ = [
    "MARK_NAME",
    "LastWords",
    "LastWordsTls",
    "ProcessGuard",
    "ProcessGuardError",
    "is_running",
    "kill_tree",
    "no_core_dumps",
    "terminate_tree",
]

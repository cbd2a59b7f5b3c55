"""The path of one call through one process, and the Python API around it."""

from common.calls.call import Call
from common.calls.replies import Notification
from common.gateway.gateway import Gateway
from common.readiness import Readiness

__all__ = ["Call", "Gateway", "Notification", "Readiness"]

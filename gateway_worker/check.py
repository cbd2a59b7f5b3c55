"""``python -m gateway_worker.check``: whether workers could take over the settings as they are now.

For whoever signals them and is no worker: it ends with 0, or with 1 and says on standard output what is wrong, and
nothing else: what a class of somebody's own prints may hold secrets, and goes to standard error. Nothing is asked of
any server.
"""

from __future__ import annotations

import os
import sys

from common.control.reload import checked
from common.domain.errors import ConfigurationError
from common.settings import load
from gateway_worker.credentials.asking import Providers
from gateway_worker.credentials.providers import load_providers


def main() -> int:
    """Make what a worker would make anew, and throw it away."""
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        settings = checked(load)
        Providers(load_providers(settings), timeout=settings.credentials.timeout).close()
    except ConfigurationError as error:
        os.write(answer, f"{error.message}\n".encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m gateway_web`` is the command ``canalgate``."""

from gateway_web.cli import main

main()

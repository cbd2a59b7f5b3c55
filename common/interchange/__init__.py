"""Exchange of tool definitions with the configuration files of MCP clients. Pure: text in, text out.

:func:`parse` reads a client's file, :func:`merge_into_yaml` puts what it found into canalgate.yaml,
:func:`to_client` points a client at the gateway, and :func:`to_mcp_json` writes our tools as a client would.
"""

from common.interchange.document import merge_into_yaml
from common.interchange.exporters import Exported, Flavour, to_client, to_mcp_json
from common.interchange.importers import ImportResult, parse

__all__ = [
    "Exported",
    "Flavour",
    "ImportResult",
    "merge_into_yaml",
    "parse",
    "to_client",
    "to_mcp_json",
]

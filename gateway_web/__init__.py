"""The web program: ingress for MCP clients, and the command line."""

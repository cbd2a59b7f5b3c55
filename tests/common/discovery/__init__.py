"""Sources of tools."""

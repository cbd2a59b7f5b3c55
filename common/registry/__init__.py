"""Tools, kept in Redis and shared by all processes."""

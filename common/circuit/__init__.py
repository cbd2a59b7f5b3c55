"""Circuit breakers of tools, kept in Redis and shared by all processes."""

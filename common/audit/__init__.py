"""The audit journal: what happened to calls, sessions and tools, and who did it."""

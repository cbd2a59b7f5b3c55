"""The way to a backend: raw JSON-RPC, so that nothing of an answer is lost or rewritten."""

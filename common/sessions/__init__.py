"""Sessions: the client's with us."""

"""Redis: the only shared state, and the only package that speaks to it."""

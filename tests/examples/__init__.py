"""The examples, each of them run."""

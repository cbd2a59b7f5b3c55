"""The contracts of plug points."""

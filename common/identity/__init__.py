"""Credentials that the gateway itself issues."""

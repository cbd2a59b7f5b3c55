"""Outgoing HTTP of both programs beside the calls to backends: every connection is judged before it is made."""

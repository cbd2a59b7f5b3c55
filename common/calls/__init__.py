"""The contract between the two programs: how a call is sent, and how its end comes back."""

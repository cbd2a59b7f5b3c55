"""The doors: one module a transport."""

"""What the web program and the worker program share."""

__version__ = "0.1.0"

"""What the gateway promises to keep, held against all that it writes."""

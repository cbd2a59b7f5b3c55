"""Flower, cut down to what shows and changes nothing, for operators alone (decision 0023)."""

"""The words of the product as plain values: no IO, no clock, standard library only."""

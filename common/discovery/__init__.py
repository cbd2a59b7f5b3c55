"""Tools that something else than an operator names: a watched file, or a source of one's own."""

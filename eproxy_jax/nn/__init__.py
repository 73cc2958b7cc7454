"""Everything networks are made of: primitives with their gradients, layers, initialisers."""

"""Flax modules that the components are made of."""

"""Dialogue as typed parts, rendered once into ids, loss mask and stop ids."""

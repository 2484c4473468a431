"""Reproductions of the room `inlay.lm`."""

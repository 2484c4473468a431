"""Reproductions of the room `inlay.words`."""

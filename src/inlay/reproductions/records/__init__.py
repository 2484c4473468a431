"""Reproductions of the room `inlay.records`."""

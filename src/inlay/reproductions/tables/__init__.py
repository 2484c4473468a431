"""Reproductions of the room `inlay.tables`."""

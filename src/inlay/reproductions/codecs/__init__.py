"""Reproductions of codecs: rows in fewer bytes."""

"""Reproductions of indexes and of the encoders that live by them."""

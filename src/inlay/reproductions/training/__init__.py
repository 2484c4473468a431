"""Reproductions of how encoders and their indexes are learnt."""

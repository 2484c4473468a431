"""Rows from one space to another: maps with `fit` and `transform` (see `inlay.types.SpaceMap`)."""

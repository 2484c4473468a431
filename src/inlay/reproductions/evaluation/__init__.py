"""Reproductions of evaluation methods: what data sets, measures and protocols claim."""

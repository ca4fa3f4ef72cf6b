"""Judges samples and generators: music theory measures, without a model."""

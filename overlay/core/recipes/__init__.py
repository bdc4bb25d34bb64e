"""Recipes: what the steps of a graft make of a donor's tensors, decided from headers alone."""

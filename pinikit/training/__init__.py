"""Assembling a model from injections, training it, evaluating it, and keeping what was learned."""

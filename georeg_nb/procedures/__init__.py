"""Procedures G0, P6, P7: each a module (or package) of checks and steps. Source: procedures 1.1."""

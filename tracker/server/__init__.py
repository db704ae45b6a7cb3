"""Hypercorn, and every byte that leaves a connection."""

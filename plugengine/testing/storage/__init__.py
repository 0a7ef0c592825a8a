"""Conformance cases for storage drivers."""

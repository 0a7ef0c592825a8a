"""Conformance cases for cgroup drivers."""

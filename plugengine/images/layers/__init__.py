"""Layers: unpacked from tar to directories of the store, and written back."""

"""A driver of plugengine."""

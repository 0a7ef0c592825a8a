"""plugengine: images."""

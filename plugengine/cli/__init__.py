"""plugengine: cli."""

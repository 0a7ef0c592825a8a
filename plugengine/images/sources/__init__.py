"""Where images come from: archives and schemes."""

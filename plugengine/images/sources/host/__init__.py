"""Images made of the host's own programs and their libraries."""

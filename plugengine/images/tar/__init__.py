"""The tar format, read and written entry by entry, within limits."""

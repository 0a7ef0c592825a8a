"""Check digests before anything is named after them; only sha256 is known."""

from __future__ import annotations

from plugengine.errors import ImageError

ALGORITHM = "sha256"
PREFIX = f"{ALGORITHM}:"
HEX_LENGTH = 64
_HEX = frozenset("0123456789abcdef")


def is_hex(text: str) -> bool:
    """Tell whether the text is made of lower-case hexadecimal digits alone."""
    return bool(text) and _HEX.issuperset(text)


def is_digest(text: object) -> bool:
    """Tell whether this is "sha256:" and 64 lower-case hexadecimal digits."""
    return (
        isinstance(text, str)
        and text.startswith(PREFIX)
        and len(text) == len(PREFIX) + HEX_LENGTH
        and is_hex(text[len(PREFIX) :])
    )


def is_full_id(text: str) -> bool:
    """Tell whether the text is a whole id of an image, which is never a name; its "sha256:" may be left out."""
    return is_digest(text) or is_digest(PREFIX + text)


def hex_of(digest: object, what: str = "digest") -> str:
    """Return the hexadecimal part, safe to be a file name.

    Raises:
        ImageError: It is not a sha256 digest.
    """
    if not is_digest(digest):
        raise ImageError(f"{what} {digest!r}: not sha256 and 64 hexadecimal digits")
    return str(digest)[len(PREFIX) :]


def digest_of(content: bytes) -> str:
    """Return the digest of some bytes."""
    from hashlib import sha256

    return PREFIX + sha256(content).hexdigest()

"""How much of an archive is believed before it is called hostile."""

from __future__ import annotations

from msgspec import Struct

MANIFEST_BYTES = 4 << 20  # distribution-spec: "should limit the manifest size to 4 megabytes"
CONFIG_BYTES = 8 << 20
# What one archive's manifests, indexes and configs may have in all; what is read twice counts twice.
CONTENTS_BYTES = 64 << 20
IMAGES = 1000  # of one archive
LAYERS = 500  # of one image: OVL_MAX_STACK, fs/overlayfs/params.c


class Caps(Struct, frozen=True, kw_only=True):
    """Limits of one layer; far above what real images hold, far below what harms the machine."""

    entries: int = 4_000_000
    bytes: int = 64 << 30  # uncompressed, holes of sparse files included
    # gzip cannot exceed 1032:1, zstd can reach 30000:1; a layer of text packs 10:1.
    ratio: int = 500
    ratio_from_bytes: int = 256 << 20  # the ratio counts from here on: a small layer of zeros is harmless
    path_bytes: int = 4095  # PATH_MAX without its NUL
    depth: int = 256  # a removal holds one descriptor for each level
    header_bytes: int = 1 << 20  # of all PAX headers and long names before one entry, their blocks included
    # What global headers say is applied to every entry: no more than eight times the block the entry takes anyway.
    global_bytes: int = 4096
    # Reading a record, or a number of a map of holes, costs as much as copying a few kilobytes: so many in one archive,
    # and some more for each entry.
    records: int = 1 << 22
    records_per_entry: int = 16
    extents: int = 1 << 20  # of one sparse file


DEFAULT = Caps()

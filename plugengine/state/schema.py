"""The tables of the state database, as the steps that lead from an empty one to today's."""

from __future__ import annotations

from typing import Final

_FIRST = """
CREATE TABLE images (
    id              TEXT PRIMARY KEY,       -- sha256:… of the config
    manifest_digest TEXT,
    config          TEXT,                   -- JSON
    diff_ids        TEXT,                   -- JSON array, lowest first
    size_bytes      INTEGER,
    created_ns      INTEGER
);
CREATE TABLE refs (
    name     TEXT PRIMARY KEY,              -- name:tag
    image_id TEXT NOT NULL REFERENCES images(id)
);
CREATE INDEX refs_by_image ON refs(image_id);
CREATE TABLE layers (
    diff_id    TEXT PRIMARY KEY,            -- sha256:…
    size_bytes INTEGER,
    created_ns INTEGER
);
CREATE TABLE containers (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    status      TEXT NOT NULL,
    created_ns  INTEGER,
    image_id    TEXT,
    image_name  TEXT,
    spec        TEXT,                       -- JSON, ContainerSpec
    choice      TEXT,                       -- JSON, DriverChoice
    state       TEXT,                       -- JSON, ContainerState
    records     TEXT,                       -- JSON, what the drivers returned, by kind
    owner_pid   INTEGER,                    -- the process that works on the container now
    owner_start INTEGER,
    boot_id     TEXT
);
CREATE INDEX containers_by_image ON containers(image_id);
CREATE TABLE networks (
    name       TEXT PRIMARY KEY,
    driver     TEXT,
    network    TEXT,                        -- JSON, Network
    record     TEXT,                        -- JSON, what the driver returned
    last_lease TEXT                         -- the search for a free address goes on after it
);
CREATE TABLE leases (
    network      TEXT,
    address      TEXT,
    container_id TEXT,
    PRIMARY KEY (network, address)
) WITHOUT ROWID;
CREATE INDEX leases_by_container ON leases(container_id);
CREATE TABLE id_ranges (
    start        INTEGER PRIMARY KEY,       -- first id on the host
    size         INTEGER,
    container_id TEXT
);
CREATE INDEX id_ranges_by_container ON id_ranges(container_id);
CREATE TABLE volumes (
    name       TEXT PRIMARY KEY,
    anonymous  INTEGER,
    labels     TEXT,                        -- JSON
    options    TEXT,                        -- JSON
    created_ns INTEGER
);
CREATE TABLE volume_uses (
    volume       TEXT,
    container_id TEXT,
    PRIMARY KEY (volume, container_id)
) WITHOUT ROWID;
CREATE INDEX volume_uses_by_container ON volume_uses(container_id)
"""

# Which an image that came without a manifest gets one with.
_LAYERS_HAVE_TAR_SIZES = "ALTER TABLE layers ADD COLUMN tar_bytes INTEGER"

_PORTS = """
CREATE TABLE ports (
    protocol     TEXT,
    host_port    INTEGER,
    host_ip      TEXT,                      -- empty: every address of the host
    container_id TEXT,
    PRIMARY KEY (protocol, host_port, host_ip)
);
CREATE INDEX ports_by_container ON ports(container_id)
"""

# Step n leads from version n to n + 1. A step that has been released is never edited, only followed by another.
MIGRATIONS: Final[tuple[str, ...]] = (_FIRST, _LAYERS_HAVE_TAR_SIZES, _PORTS)
VERSION: Final = len(MIGRATIONS)


def statements(step: str) -> tuple[str, ...]:
    """Return the single statements of a step; none holds a semicolon in a literal or comment."""
    return tuple(text.strip() for text in step.split(";") if text.strip())

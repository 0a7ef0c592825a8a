"""From a Dockerfile to an image; for now its instructions that change an image's config."""

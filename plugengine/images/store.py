"""The image store: what the engine asks of images, in one class."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING

from plugengine.errors import NotFoundError, PlugengineError, UsageError
from plugengine.images.catalog import Catalog, Complete
from plugengine.images.digest import is_full_id
from plugengine.images.files import StoreFiles
from plugengine.images.sources.schemes import DEFAULT, Sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, BinaryIO, TypeAlias

    from plugengine.model import HostPath
    from plugengine.plugins.registry import Registry
    from plugengine.spec import Image
    from plugengine.state.state import State

    # Called with what is worked on, bytes done and bytes in all (None: not known).
    Progress: TypeAlias = Callable[[str, int, int | None], None]
    Strings: TypeAlias = list[str]  # inside the class, `list` is a method


class ImageStore:
    """Images, their names and their layers below one root; safe for many processes at once.

    Args:
        root: The engine's root.
        state: Its database.
        registry: The installed plugins, whose image sources are asked; None: the bundled sources only.
    """

    def __init__(self, root: HostPath, state: State, *, registry: Registry | None = None) -> None:
        self.files: StoreFiles = StoreFiles(root)
        self.state = state
        self.catalog: Catalog = Catalog(state, self.files)
        self.sources: Sources = Sources(registry)

    # --- finding ---

    def list(self) -> list[Image]:
        """Return all images, the one loaded last first."""
        return self.catalog.list()

    def get(self, reference: str) -> Image:
        """Return an image by its name, its digest, or the beginning of its id.

        Raises:
            NotFoundError: There is none; the hint names similar ones.
            UsageError: The beginning fits several images.
        """
        image = self.catalog.by_id(self.id_of(reference))
        if image is None:
            raise NotFoundError(f"image {reference}: was removed just now")
        return image

    def id_of(self, reference: str) -> str:
        """Return the id of an image, be it whole or damaged. Raises: as `get`."""
        if not is_full_id(reference):  # a row of an older engine may call another image by these digits
            image_id = self.catalog.id_named(reference) or self.catalog.id_named(f"{reference}:latest")
            if image_id is not None:
                return image_id
        from plugengine.images import lookup

        return lookup.find_id(self.catalog, reference)

    def named(self, reference: str) -> Image | None:
        """Return the image of exactly this name, scheme included, if it is in the store; for sources."""
        image_id = self.catalog.id_named(reference)
        return None if image_id is None else self.catalog.by_id(image_id)

    def resolve(self, reference: str, *, pull: str = "missing", progress: Progress | None = None) -> Image:
        """Return the image a container is to run, having a source make or fetch it if need be.

        Args:
            reference: A name as for `get`, or scheme:… of a source.
            pull: "missing": fetch what is not in the store; "always": ask the source whatever is there; "never".
            progress: Called as the work goes on.

        Raises:
            NotFoundError: It is not in the store and no source has it.
            PlugengineError: What the source says.
        """
        scheme = None if pull == "never" else self.sources.scheme_of(reference)
        if scheme is not None:
            return self.sources.resolve(scheme, self, reference, pull=pull, progress=progress)
        if pull != "always" or is_full_id(reference):
            try:
                return self.get(reference)
            except NotFoundError as exc:
                if pull == "never" or is_full_id(reference) or not self.sources.has_default():
                    raise self._with_faults(exc) from None
        elif not self.sources.has_default():
            raise self._with_faults(
                NotFoundError(
                    f"image {reference}: no source is installed to get it from anew",
                    hint="--pull missing takes it from the store",
                )
            )
        return self.sources.resolve(DEFAULT, self, reference, pull=pull, progress=progress)

    def _with_faults(self, error: NotFoundError) -> NotFoundError:
        """Say which plugins could not be asked: one of them may have had the source."""
        hints = [*([error.hint] if error.hint else []), *self.sources.faults]
        return NotFoundError(error.message, hint="; ".join(hints) or None)

    def config(self, reference: str) -> dict[str, Any]:
        """Return the whole config of an image; see config.md of the OCI image-spec."""
        from msgspec.json import decode

        found: dict[str, Any] = decode(self.catalog.config(self.get(reference).id))
        return found

    # --- adding ---

    def load(self, source: str | BinaryIO, *, progress: Progress | None = None) -> tuple[Image, ...]:
        """Load every image of a docker-archive or OCI archive, or of an OCI layout directory.

        Args:
            source: A path, or a binary file, which may be a pipe.
            progress: Called as the work goes on.

        Raises:
            ImageError: The archive is damaged, hostile or no image archive; nothing of it was kept.
        """
        from plugengine.images.sources import archive

        with self.adding("load image"):
            return archive.load(self, source, progress=progress)

    def import_rootfs(
        self,
        source: str | BinaryIO,
        name: str | None,
        *,
        config: Mapping[str, Any] = MappingProxyType({}),
        progress: Progress | None = None,
    ) -> Image:
        """Make an image with one layer out of a tar of a root filesystem.

        Args:
            source: A path, or a binary file, which may be a pipe; gzip, zstd, bzip2, xz or plain.
            name: What to call it, None for nothing.
            config: The `config` object of the image's config.
            progress: Called as the work goes on.
        """
        from plugengine.images import rootfs

        with self.adding("import image"):
            return rootfs.import_rootfs(self, source, name, config=config, progress=progress)

    def add_built(
        self,
        build: Callable[[HostPath], int],
        *,
        config: Mapping[str, Any],
        created_ns: int,
        created_by: str,
        name: str | None,
    ) -> Image:
        """Make an image with one layer that a function writes; the same files give the same image.

        Args:
            build: Called with an empty directory of mode 0755; returns the size of what it wrote there.
            config: The `config` object of the image's config.
            created_ns: Time stamp of the image.
            created_by: The line of its history.
            name: What to call it, as it is.
        """
        from plugengine.images import building

        with self.adding("make image"):
            return building.add_built(
                self, build, config=config, created_ns=created_ns, created_by=created_by, name=name
            )

    @contextmanager
    def adding(self, action: str) -> Iterator[None]:
        """Hold the store against removal of layers that no image names yet, and say what went wrong."""
        from plugengine.state.locations import directory_error

        try:
            with self.files.in_use():
                try:
                    yield
                except BaseException:
                    self.files.note_pending_removal()
                    raise
        except OSError as exc:
            if exc.errno is None:
                raise
            raise directory_error(f"{action} in", exc, str(exc.filename or self.files.root)) from exc
        finally:
            if self.files.removal_is_pending():
                with suppress(OSError, PlugengineError):  # it stays pending; the first error is the one to be told
                    self.gc()

    def commit(self, image: Complete, names: Sequence[str]) -> Image:
        """Write the rows of an image whose files are complete, inside `adding`; the names leave other images."""
        return self.catalog.add(image, names)

    # --- naming and removing ---

    def tag(self, source: str, target: str) -> None:
        """Give an image one more name; a name in use moves.

        Raises:
            UsageError: The new name is not understood, or is a source's.
        """
        self.catalog.set_name(self.checked_name(target), self.id_of(source))

    def set_name(self, reference: str, image_id: str) -> None:
        """Give an image the name it was asked for by, scheme included; for sources. A name in use moves."""
        self.catalog.set_name(reference, image_id)

    def checked_name(self, text: str) -> str:
        """Return a name for an image in the form that is stored. Raises: UsageError."""
        from plugengine.images.reference import parse

        reference = parse(text)
        if reference.digest is not None:
            raise UsageError(f"image name {text!r}: a digest cannot be given to an image")
        if self.sources.scheme_of(str(reference)) is not None:
            raise UsageError(f"image name {text!r}: names that begin with {text.partition(':')[0]}: are made on demand")
        return reference.name

    def remove(self, reference: str, *, force: bool = False, in_use: Callable[[str], Strings] | None = None) -> Strings:
        """Remove a name, and with its last name the image and the layers no other image needs.

        Args:
            reference: A name, or the beginning of an id.
            force: Also remove all names of an image given by its id, and one that stopped containers use.
            in_use: Returns the containers that use an image id.

        Returns:
            Lines "Untagged: …" and "Deleted: …".

        Raises:
            ConflictError: Containers use it, or an id was given and it has several names.
        """
        from plugengine.images import remove as removal

        return removal.remove(self, reference, force=force, in_use=in_use or (lambda _: []))

    def gc(self) -> Strings:
        """Remove what belongs to no image; return a line for each thing removed."""
        return self.check(repair=True, kinds=("orphan",))

    def check(self, *, repair: bool = False, kinds: Sequence[str] = ("orphan", "broken")) -> Strings:
        """Compare rows and files both ways; return a line for each thing wrong (and, with `repair`, put right).

        Args:
            repair: Remove orphans, and the rows of images whose files are lost.
            kinds: "orphan" (files without a row), "broken" (rows without files).
        """
        from plugengine.images import check

        return check.check(self, repair=repair, kinds=kinds)

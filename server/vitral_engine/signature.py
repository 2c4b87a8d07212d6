"""Ed25519 signatures over manifest.json, which holds the sha256 of every other file of its folder.

`manifest.json.sig` is the 64 raw bytes: what `openssl pkeyutl -sign -rawin` writes, and `-verify` reads.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitral import spec as specs
from vitral.errors import ArtifactError, InvalidArgumentError, UnsupportedError

if TYPE_CHECKING:  # optional, and imported only where a signature is asked for
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FILE = f"{specs.MANIFEST}.sig"
"""File of the signature, beside the manifest."""

SIZE = 64
"""Bytes of an Ed25519 signature."""


@dataclass(frozen=True)
class Trust:
    """Whose models are opened.

    Attributes:
        keys: name of each key's file, and the key.
    """

    keys: tuple[tuple[str, Ed25519PublicKey], ...]

    def demand(self, folder: Path, manifest: bytes, *, where: str) -> None:
        """Refuses a manifest that none of the keys has signed.

        Args:
            folder: where its signature is.
            manifest: the bytes that will be read.
            where: name of the manifest, for messages.

        Raises:
            ArtifactError: there is no signature, or it is none of this manifest by one of the keys.
        """
        names = " or ".join(name for name, _ in self.keys)
        try:
            found = (folder / FILE).read_bytes()
        except FileNotFoundError:
            raise ArtifactError(f"{where} has no signature, one by {names} is demanded") from None
        except OSError as error:
            raise ArtifactError(f"the signature of {where} cannot be read: {error.strerror}") from None
        if len(found) != SIZE:
            told = f"the signature of {where} has {len(found)} bytes"
            raise ArtifactError(f"{told}, one of Ed25519 has {SIZE}: it is damaged, or of another kind")
        if not any(_signed(key, found, manifest) for _, key in self.keys):
            told = f"{where} is not signed by {names}"
            raise ArtifactError(f"{told}: its signature is by another key, or of another manifest")


def trusted(files: Sequence[str | os.PathLike[str]]) -> Trust | None:
    """Trust in the public keys of these PEM files; None where there are none.

    Raises:
        InvalidArgumentError: a file cannot be read, or holds something else.
        UnsupportedError: the cryptography package is not installed.
    """
    if not files:
        return None
    return Trust(tuple((Path(file).name, _public(Path(file))) for file in files))


def require() -> None:
    """Refuses to go on without the cryptography package.

    Raises:
        UnsupportedError: it is not installed.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise UnsupportedError("cryptography, which signatures need, is missing: add vitral[sign]")


def read_pem(file: Path, *, what: str) -> bytes:
    """The bytes of a key's file.

    Raises:
        InvalidArgumentError: it cannot be read.
        UnsupportedError: the cryptography package is not installed.
    """
    require()
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"{what} {file} cannot be read: {error.strerror}") from None


def _public(file: Path) -> Ed25519PublicKey:
    data = read_pem(file, what="public key")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in data:
        raise InvalidArgumentError(f"{file} holds a private key; a public one is needed to verify with")
    try:
        key: Any = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidArgumentError(f"{file} holds no public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidArgumentError(f"{file} holds {kind_of(key)}; an Ed25519 public key is needed")
    return key


def kind_of(key: object) -> str:
    """`a key of kind RSA`, of any key of the cryptography package."""
    kind = type(key).__name__.removeprefix("_").removesuffix("PublicKey").removesuffix("PrivateKey")
    return f"a key of kind {kind or type(key).__name__}"


def _signed(key: Ed25519PublicKey, signature: bytes, manifest: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        return False
    return True

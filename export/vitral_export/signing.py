"""Signs manifests with an Ed25519 key, and makes such keys; `vitral_engine.signature` verifies."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitral import spec as specs
from vitral.errors import InvalidArgumentError
from vitral_engine.signature import FILE, kind_of, read_pem, require


@dataclass(frozen=True)
class Signer:
    """A private key at work.

    Attributes:
        sign: bytes to their signature.
    """

    sign: Callable[[bytes], bytes]

    def write(self, folder: Path) -> bool:
        """Signs the manifest of a version folder; False where it has this very signature already."""
        made = self.sign((folder / specs.MANIFEST).read_bytes())
        target = folder / FILE
        if target.is_file() and target.read_bytes() == made:  # Ed25519 gives the same each time
            return False
        aside = folder / f".{FILE}.{os.getpid()}"
        try:
            aside.write_bytes(made)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
        return True


def write(signer: Signer | None, folder: Path) -> None:
    """Signs a version folder where there is somebody to sign it."""
    if signer is not None:
        signer.write(folder)


def signer(file: str | os.PathLike[str]) -> Signer:
    """The private key in a PEM file.

    Raises:
        InvalidArgumentError: the file cannot be read, or holds something else.
        UnsupportedError: the cryptography package is not installed.
    """
    path = Path(file)
    data = read_pem(path, what="private key")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key: Any = load_pem_private_key(data, password=None)
    except TypeError:
        raise InvalidArgumentError(f"{path} is encrypted: a key without a password is needed") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidArgumentError(f"{path} holds no private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidArgumentError(f"{path} holds {kind_of(key)}; an Ed25519 private key is needed")
    return Signer(key.sign)


def keygen(file: str | os.PathLike[str]) -> Path:
    """Writes a new private key, for its owner's eyes only, and its public key beside it as `.pub.pem`.

    Returns:
        The file of the public key.

    Raises:
        InvalidArgumentError: one of the files is there already.
        UnsupportedError: the cryptography package is not installed.
    """
    path = Path(file)
    public = path.with_name(f"{path.name.removesuffix('.pem')}.pub.pem")
    for one in (path, public):
        if one.exists():
            raise InvalidArgumentError(f"{one} is there already: a key is never overwritten")
    require()
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(secret)
    told = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    public.write_bytes(told)
    return public

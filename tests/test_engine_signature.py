"""Ed25519 signatures over manifests: made, verified, and refused where anything about them is not right."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

import vitral_engine
from vitral.errors import ArtifactError, InvalidArgumentError
from vitral_engine import signature
from vitral_engine.artifact import open_artifact
from vitral_export.cli import main

SIZES = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `mine.pem` and `other.pem`, and their public keys."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        assert main(["keygen", str(folder / f"{name}.pem")]) == 0
    return folder


@pytest.fixture
def signed(small_repo: Path, keys: Path, tmp_path: Path) -> Path:
    """A copy of the model `tiny`, signed by `mine`."""
    repo = Path(shutil.copytree(small_repo, tmp_path / "models"))
    assert main(["sign", str(repo / "tiny"), "--key", str(keys / "mine.pem")]) == 0
    return repo / "tiny"


def sig(model: Path) -> Path:
    return model / "1" / signature.FILE


def test_a_key_is_for_its_owners_eyes_and_never_overwritten(keys: Path, capsys) -> None:
    assert (keys / "mine.pem").stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in (keys / "mine.pub.pem").read_text()
    before = (keys / "mine.pem").read_bytes()
    assert main(["keygen", str(keys / "mine.pem")]) == 1
    assert "is there already: a key is never overwritten" in capsys.readouterr().err
    assert (keys / "mine.pem").read_bytes() == before


def test_a_signed_model_opens_for_who_trusts_one_of_the_keys(signed: Path, keys: Path, capsys) -> None:
    assert sig(signed).stat().st_size == signature.SIZE
    public = [keys / "other.pub.pem", keys / "mine.pub.pem"]
    assert vitral_engine.open(signed, trust=public).spec.name == "tiny"
    assert open_artifact(signed).spec.name == "tiny"  # nobody asks: the extra file harms nothing
    capsys.readouterr()
    assert main(["sign", str(signed), "--key", str(keys / "mine.pem")]) == 0
    assert "is signed already by" in capsys.readouterr().out
    assert main(["verify", str(signed), "--trust", str(public[1]), "--json"]) == 0
    assert main(["verify", str(signed), "--trust", str(public[0]), "--json"]) == 1
    assert "is not signed by other.pub.pem" in capsys.readouterr().err


def test_openssl_verifies_and_signs_the_same(signed: Path, keys: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is missing")
    public, manifest = str(keys / "mine.pub.pem"), str(signed / "1" / "manifest.json")
    line = [openssl, "pkeyutl", "-rawin", "-in", manifest]
    verify = ["-verify", "-pubin", "-inkey", public, "-sigfile", str(sig(signed))]
    assert subprocess.run([*line, *verify], capture_output=True, check=False).returncode == 0
    theirs = tmp_path / "theirs.pem"
    subprocess.run([openssl, "genpkey", "-algorithm", "ed25519", "-out", str(theirs)], check=True)
    out = ["-sign", "-inkey", str(theirs), "-out", str(sig(signed))]
    subprocess.run([*line, *out], check=True)
    pub = tmp_path / "theirs.pub.pem"
    subprocess.run([openssl, "pkey", "-in", str(theirs), "-pubout", "-out", str(pub)], check=True)
    assert open_artifact(signed, trust=signature.trusted([pub])).spec.name == "tiny"


def cut(model: Path) -> None:
    sig(model).write_bytes(sig(model).read_bytes()[:-1])


def flipped(model: Path) -> None:
    data = bytearray(sig(model).read_bytes())
    data[10] ^= 1
    sig(model).write_bytes(data)


def of_another_manifest(model: Path) -> None:
    manifest = model / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("random weights, seed 0", "random weights, seed 1"))


def of_a_manifest_that_is_none(model: Path) -> None:
    (model / "1" / "manifest.json").write_text("{")


def weights_changed(model: Path) -> None:
    data = bytearray((model / "1" / "weights.bin").read_bytes())
    data[5] ^= 1
    (model / "1" / "weights.bin").write_bytes(data)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda model: sig(model).unlink(), "has no signature, one by mine.pub.pem is demanded"),
        (cut, "has 63 bytes, one of Ed25519 has 64"),
        (lambda model: sig(model).write_bytes(b""), "has 0 bytes"),
        (flipped, "its signature is by another key, or of another manifest"),
        (of_another_manifest, "its signature is by another key, or of another manifest"),
        (of_a_manifest_that_is_none, "its signature is by another key, or of another manifest"),
        (weights_changed, "weights.bin has sha256"),
    ],
)
def test_what_is_not_as_it_was_signed_is_refused(
    signed: Path, keys: Path, fault: Callable[[Path], None], said: str
) -> None:
    fault(signed)
    with pytest.raises(ArtifactError) as caught:
        open_artifact(signed, trust=signature.trusted([keys / "mine.pub.pem"]))
    assert said in str(caught.value)


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey) -> tuple[bytes, bytes]:
    secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    kind = form.PublicFormat.SubjectPublicKeyInfo
    return secret, key.public_key().public_bytes(form.Encoding.PEM, kind)


def test_keys_of_another_kind_are_refused_by_their_kind(signed: Path, tmp_path: Path, capsys) -> None:
    made = {
        "RSA": pem(rsa.generate_private_key(65537, 2048)),
        "EC": pem(ec.generate_private_key(ec.SECP256R1())),
        "Ed448": pem(ed448.Ed448PrivateKey.generate()),
    }
    for kind, (secret, public) in made.items():
        (tmp_path / "k.pem").write_bytes(secret)
        (tmp_path / "k.pub.pem").write_bytes(public)
        with pytest.raises(InvalidArgumentError, match=f"{kind}; an Ed25519 public key is needed"):
            signature.trusted([tmp_path / "k.pub.pem"])
        assert main(["sign", str(signed), "--key", str(tmp_path / "k.pem")]) == 1
        assert f"{kind}; an Ed25519 private key is needed" in capsys.readouterr().err


def test_files_that_are_no_keys_are_refused(signed: Path, keys: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "text.pem").write_text("hello")
    cases = {
        keys / "mine.pem": "holds a private key; a public one is needed",
        tmp_path / "text.pem": "holds no public key in PEM",
        tmp_path / "none.pem": "cannot be read: No such file",
    }
    for file, said in cases.items():
        with pytest.raises(InvalidArgumentError, match=said):
            vitral_engine.open(signed, trust=[file])
    secret = form.load_pem_private_key((keys / "mine.pem").read_bytes(), None)
    locked = secret.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"x")
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    for file, said in {
        tmp_path / "locked.pem": "is encrypted: a key without a password is needed",
        keys / "mine.pub.pem": "holds no private key in PEM",
        tmp_path / "none.pem": "cannot be read",
    }.items():
        assert main(["sign", str(signed), "--key", str(file)]) == 1
        assert said in capsys.readouterr().err


def test_an_export_signs_before_it_is_seen_and_again_where_nothing_changed(
    keys: Path, tmp_path: Path
) -> None:
    repo, key = tmp_path / "models", str(keys / "mine.pem")
    line = ["build", "patch-embedding", "--name", "t", "--repo", str(repo), *SIZES]
    trust = signature.trusted([keys / "mine.pub.pem"])
    assert main([*line, "--sign", str(keys / "none.pem")]) == 1
    assert not repo.exists()
    assert main([*line, "--sign", key]) == 0
    made = sig(repo / "t").read_bytes()
    assert open_artifact(repo / "t", trust=trust).version == "1"
    assert main(line) == 0  # the same identity: its signature stays
    assert sig(repo / "t").read_bytes() == made
    sig(repo / "t").unlink()
    assert main([*line, "--sign", key]) == 0
    assert sig(repo / "t").read_bytes() == made
    assert signature.FILE not in json.loads((repo / "t" / "1" / "manifest.json").read_text())["sha256"]
    assert not list((repo / "t" / "1").glob(".*"))

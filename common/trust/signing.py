"""TUF's ed25519 keys, made and checked by PyNaCl as every other signature here.

What securesystemslib brings for them is pyca/cryptography, a second library of ten megabytes that does the same, or,
without it, pure Python: 10 ms a signature instead of 0.1. Both sides are its own interfaces, registered as its
documentation says; a key is named by `common.wire.packet.key_id`, as in packets, bundles and logs.
"""

from typing import Any, Final

from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, Key, SecretsHandler, Signature, Signer

from common.wire.packet import key_id

ED25519: Final = "ed25519"


class PublicKey(Key):
    """An ed25519 public key as metadata holds it."""

    @classmethod
    def of(cls, public: VerifyKey) -> "PublicKey":
        """The same key, for metadata."""
        return cls(key_id(public).hex(), ED25519, ED25519, {"public": public.encode().hex()})

    @classmethod
    def from_dict(cls, keyid: str, key_dict: dict[str, Any]) -> "PublicKey":
        """Raises KeyError, TypeError, ValueError."""
        keytype, scheme, keyval = (key_dict.pop(name) for name in ("keytype", "scheme", "keyval"))
        key = cls(keyid, keytype, scheme, keyval, key_dict)
        key.verify_key()
        return key

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads."""
        known = {"keytype": self.keytype, "scheme": self.scheme, "keyval": self.keyval}
        return known | self.unrecognized_fields

    def verify_key(self) -> VerifyKey:
        """The same key, for packets and bundles. Raises ValueError, TypeError, KeyError for what is no key."""
        return VerifyKey(bytes.fromhex(self.keyval["public"]))

    def verify_signature(self, signature: Signature, data: bytes) -> None:
        """Raises UnverifiedSignatureError unless this key signed exactly `data`."""
        try:
            self.verify_key().verify(data, bytes.fromhex(signature.signature))
        except (CryptoError, ValueError, TypeError) as error:
            raise UnverifiedSignatureError(f"key {self.keyid} did not sign this") from error


class PrivateKey(Signer):
    """An ed25519 private key that signs metadata."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    @property
    def public_key(self) -> PublicKey:
        """Its public half."""
        return PublicKey.of(self._key.verify_key)

    def sign(self, payload: bytes) -> Signature:
        """The signature, under the key's id."""
        return Signature(self.public_key.keyid, self._key.sign(payload).signature.hex())

    @classmethod
    def from_priv_key_uri(  # noqa: D102 -- securesystemslib's
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> "PrivateKey":
        raise NotImplementedError(f"{priv_key_uri} for {public_key}, {secrets_handler}: keys here are files")


KEY_FOR_TYPE_AND_SCHEME[ED25519, ED25519] = PublicKey

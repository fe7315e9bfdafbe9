"""Small authorities of X.509 identities, and what they sign and revoke."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOUR = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, and who has signed it."""

    id: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    authority: Authority

    @property
    def serial(self) -> str:
        return f"{self.certificate.serial_number:x}"

    def chain_der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def chain_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_der(self) -> bytes:
        return self._key(serialization.Encoding.DER)

    def key_pem(self) -> bytes:
        return self._key(serialization.Encoding.PEM)

    def _key(self, encoding) -> bytes:
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(encoding, form, serialization.NoEncryption())

    def again(self, **options) -> Identity:
        """The same name with another certificate and another key."""
        return self.authority.identity(self.id, **options)


class Authority:
    """Signs whatever it is asked to."""

    def __init__(self, name: str = "authority"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder(self.name, self.name, self.key.public_key(), x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + 24 * HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def identity(self, id: str, *, dns: tuple[str, ...] = ("localhost",), lifetime=HOUR, age=HOUR) -> Identity:
        """A workload's certificate for both sides of a connection. `age`: for how long it has been
        valid; a negative `lifetime` makes one that has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.UniformResourceIdentifier(id), *map(x509.DNSName, dns)]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            x509.CertificateBuilder(self.name, x509.Name([]), key.public_key(), x509.random_serial_number())
            .not_valid_before(now - age)
            .not_valid_after(now + lifetime)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(key_id, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Identity(id, certificate, key, self)

    def revocation_list(self, *revoked: Identity) -> bytes:
        """In DER, good for an hour."""
        now = datetime.datetime.now(datetime.UTC)
        key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            x509.CertificateRevocationListBuilder(self.name, now - HOUR, now + HOUR)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(key_id, critical=False)
        )
        for identity in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(identity.certificate.serial_number, now - HOUR / 2).build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def key_usage(**on: bool) -> x509.KeyUsage:
    usages = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
              "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{usage: on.get(usage, False) for usage in usages})

"""Issuers of tokens, in plain Python: RS256 and ES256, and the key sets that go with them."""

import base64
import hashlib
import json
import secrets
import time


def encode(data: bytes | str | dict | int) -> str:
    if isinstance(data, dict):
        data = json.dumps(data)
    if isinstance(data, int):
        data = data.to_bytes((data.bit_length() + 7) // 8, "big")
    if isinstance(data, str):
        data = data.encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs tokens with one key."""

    algorithm: str

    def __init__(self, key_id: str):
        self.key_id = key_id

    def token(self, *, header: dict | None = None, **claims) -> str:
        """A token that is good for a minute, but for what `claims` say; `None` leaves one out."""
        claims = {"iss": "https://id.example", "aud": "shop", "exp": int(time.time()) + 60, **claims}
        claims = {name: value for name, value in claims.items() if value is not None}
        head = header or {"alg": self.algorithm, "kid": self.key_id, "typ": "JWT"}
        signed = f"{encode(head)}.{encode(claims)}"
        return f"{signed}.{encode(self.sign(signed.encode()))}"

    def bearer(self, **claims) -> dict:
        return {"Authorization": f"Bearer {self.token(**claims)}"}

    def sign(self, data: bytes) -> bytes:
        raise NotImplementedError

    def key(self) -> dict:
        raise NotImplementedError


def key_set(*issuers: Issuer) -> str:
    return json.dumps({"keys": [issuer.key() for issuer in issuers]})


# P-256 (FIPS 186-4, D.1.2.3): y^2 = x^3 - 3x + b.
P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
     0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5)


def add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and a != b:
        return None
    slope = 3 * (a[0] * a[0] - 1) * pow(2 * a[1], -1, P) if a == b else (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def multiply(factor: int, point):
    result = None
    while factor:
        if factor & 1:
            result = add(result, point)
        point, factor = add(point, point), factor >> 1
    return result


class Es256(Issuer):
    algorithm = "ES256"

    def __init__(self, key_id: str = "ec"):
        super().__init__(key_id)
        self.secret = secrets.randbelow(N - 1) + 1

    def key(self) -> dict:
        x, y = (encode(number.to_bytes(32, "big")) for number in multiply(self.secret, G))
        return {"kty": "EC", "crv": "P-256", "kid": self.key_id, "use": "sig", "x": x, "y": y}

    def sign(self, data: bytes) -> bytes:
        once = secrets.randbelow(N - 1) + 1
        r = multiply(once, G)[0] % N
        s = pow(once, -1, N) * (int.from_bytes(hashlib.sha256(data).digest(), "big") + r * self.secret) % N
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def is_prime(number: int) -> bool:
    """Miller and Rabin's test; small factors first."""
    if any(number % small == 0 for small in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(8):
        x = pow(secrets.randbelow(number - 3) + 2, odd, number)
        if x in (1, number - 1):
            continue
        if not any((x := x * x % number) == number - 1 for _ in range(twos - 1)):
            return False
    return True


def prime(bits: int) -> int:
    while True:
        number = secrets.randbits(bits) | 3 << (bits - 2) | 1
        if number % 65537 != 1 and is_prime(number):
            return number


class Rs256(Issuer):
    algorithm = "RS256"
    #: DER of the digest's name, which goes before it (RFC 8017 section 9.2).
    PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")

    def __init__(self, key_id: str = "rsa"):
        super().__init__(key_id)
        p, q = prime(1024), prime(1024)
        self.modulus, self.secret = p * q, pow(65537, -1, (p - 1) * (q - 1))

    def key(self) -> dict:
        return {"kty": "RSA", "kid": self.key_id, "alg": "RS256", "n": encode(self.modulus), "e": encode(65537)}

    def sign(self, data: bytes) -> bytes:
        tail = self.PREFIX + hashlib.sha256(data).digest()
        padded = b"\0\1" + b"\xff" * (256 - 3 - len(tail)) + b"\0" + tail
        return pow(int.from_bytes(padded, "big"), self.secret, self.modulus).to_bytes(256, "big")

//! The hash of sticky keys and of endpoints' addresses.
//!
//! FNV-1a over the bytes, then the finalizer of MurmurHash3, since the upper bits of FNV hardly
//! change with the last bytes. It has no seed and must stay as it is: all replicas, and the ones
//! before and after an upgrade, have to send a key to the same endpoint. A secret would keep nobody
//! from anything: who chooses a key chooses where its requests go, which is what it is for.

/// The hash of some bytes.
pub(in crate::upstream) fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(fnv)
}

/// Another number for each number, no matter how much alike those are.
pub(super) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Far from each other and from their number: the `k`-th of as many hashes as are wanted.
pub(in crate::upstream) const fn nth(hash: u64, k: u64) -> u64 {
    mix(hash.wrapping_add(k.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// A fraction of 1, below it.
pub(in crate::upstream) fn fraction(x: u64) -> f64 {
    (x >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replicas of different versions meet these values.
    #[test]
    fn it_never_changes() {
        assert_eq!(hash(b""), mix(0xcbf2_9ce4_8422_2325));
        // FNV-1a of "a", of "foobar": its published test vectors.
        assert_eq!(hash(b"a"), mix(0xaf63_dc4c_8601_ec8c));
        assert_eq!(hash(b"foobar"), mix(0x8594_4171_f739_67e8));
        assert_eq!(mix(1), 0xb456_bcfc_34c2_cb2c);
    }

    #[test]
    fn neighbours_are_far_apart() {
        for bit in 0..64 {
            let differ = (mix(1234) ^ mix(1234 ^ (1 << bit))).count_ones();
            assert!((16..=48).contains(&differ), "{bit}: {differ}");
        }
    }
}

//! Signatures of manifests: Ed25519, by a crate that does nothing else.

use ed25519_compact::{KeyPair, PublicKey, Seed};

use super::{KEY_BYTES, Manifest, Signature};
use crate::base::error::{Result, err};

impl Manifest<'_> {
    /// That one of the keys has signed it. Fails with `NotSigned` if nobody has, `BadSignature` if
    /// somebody else has, or the text is another than was signed.
    pub fn check_signed(&self, keys: &[[u8; KEY_BYTES]]) -> Result<()> {
        if self.signatures.is_empty() {
            return Err(err!(NotSigned, "manifest: it has no signature"));
        }
        let mut known = self.signatures.iter().filter(|s| keys.contains(&s.key)).peekable();
        if known.peek().is_none() {
            let n = keys.len();
            return Err(err!(BadSignature, "manifest: signed by none of the {n} trusted keys"));
        }
        match known.any(|signature| holds(signature, self.signed)) {
            true => Ok(()),
            false => {
                Err(err!(BadSignature, "manifest: its text is not what the trusted key signed"))
            }
        }
    }
}

fn holds(signature: &Signature, text: &[u8]) -> bool {
    let by = PublicKey::new(signature.key);
    by.verify(text, &ed25519_compact::Signature::new(signature.bytes)).is_ok()
}

/// The public key that belongs to a secret one, which is 32 random bytes.
pub fn public_key(secret: &[u8; 32]) -> [u8; KEY_BYTES] {
    *KeyPair::from_seed(Seed::new(*secret)).pk
}

/// Signs a text with a secret key.
pub fn sign(text: &[u8], secret: &[u8; 32]) -> Signature {
    let pair = KeyPair::from_seed(Seed::new(*secret));
    Signature { key: *pair.pk, bytes: *pair.sk.sign(text, None) }
}

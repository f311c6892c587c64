//! Opening what was sealed to this perimeter, the only code in the product that does. A value opens with the very binding it was sealed with and in no
//! other way; why one does not is not told apart further than an operator needs, and never to whoever sent it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use postern_secret::seal::{
    FIRST_VERSION, KEY_BYTES, MOST_RECIPIENTS, PerimeterPublicKey, Recipient, Sealed, SealedCredential, VERSION, Wrap,
    suite, value_aad, wrap, wrap_aad, wrap_info,
};
use postern_secret::{Secret, SecretBytes};
use rustls::crypto::hpke::{EncapsulatedSecret, HpkePrivateKey};
use zeroize::Zeroizing;

use crate::keys::PerimeterPair;

/// Opens with one perimeter's private key.
pub(crate) struct Opener {
    private: HpkePrivateKey,
    public: PerimeterPublicKey,
}

/// Why a sealed value does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unopenable {
    /// Made by another version.
    Version,
    /// Sealed to other perimeters.
    NotForUs,
    /// Ciphertext, wrapped key or binding are not what was sealed together.
    Changed,
}

impl Opener {
    #[expect(clippy::disallowed_methods, reason = "opening needs the private key")]
    pub(crate) fn new(pair: &PerimeterPair) -> Self {
        Self { private: HpkePrivateKey::from(pair.private.expose().clone()), public: pair.public.clone() }
    }

    /// The key to which others seal for this perimeter.
    pub(crate) fn public_key(&self) -> &PerimeterPublicKey {
        &self.public
    }

    /// The value, if this perimeter may open it and every part is as it was sealed.
    pub(crate) fn open(&self, credential: &SealedCredential) -> Result<SecretBytes, Unopenable> {
        let (data_key, binding) = self.data_key(credential)?;
        value(&credential.sealed, &*data_key, &binding).ok_or(Unopenable::Changed)
    }

    /// The data key wrapped for another perimeter: what opens here, and nothing else, opens there too. The value is shown to nobody.
    pub(crate) fn wrap_for(&self, credential: &SealedCredential, to: &Recipient) -> Result<Wrap, Unopenable> {
        self.open(credential)?;
        let (data_key, binding) = self.data_key(credential)?;
        wrap(&data_key, credential.sealed.version, &binding, to).map_err(|_| Unopenable::NotForUs)
    }

    /// The key of a value, and the binding that it was wrapped with.
    fn data_key(&self, credential: &SealedCredential) -> Result<(Zeroizing<[u8; KEY_BYTES]>, Vec<u8>), Unopenable> {
        let SealedCredential { binding, sealed } = credential;
        if !(FIRST_VERSION..=VERSION).contains(&sealed.version) {
            return Err(Unopenable::Version);
        }
        // A field that the version does not bind was added by whoever wrote to the database.
        let binding = binding.canonical(sealed.version).ok_or(Unopenable::Changed)?;
        if sealed.wraps.len() > MOST_RECIPIENTS {
            return Err(Unopenable::Changed);
        }
        let ours = self.public.to_string();
        let mut wraps = sealed.wraps.iter().filter(|wrap| wrap.public_key == ours).peekable();
        wraps.peek().ok_or(Unopenable::NotForUs)?;
        // A perimeter that was registered twice has two wraps of one key.
        let data_key =
            wraps.find_map(|wrap| self.unwrap_key(wrap, sealed.version, &binding)).ok_or(Unopenable::Changed)?;
        Ok((data_key, binding))
    }

    fn unwrap_key(&self, wrap: &Wrap, version: u32, binding: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
        let enc = EncapsulatedSecret(decoded(&wrap.enc)?);
        let key = decoded(&wrap.key)?;
        let aad = wrap_aad(binding, &wrap.perimeter_id);
        let opened = suite().open(&enc, &wrap_info(version), &aad, &key, &self.private).ok()?;
        let opened = Zeroizing::new(opened);
        opened.as_slice().try_into().ok().map(Zeroizing::new)
    }
}

impl Unopenable {
    /// What the operator can do.
    pub(crate) fn next_step(self) -> &'static str {
        match self {
            Self::Version => {
                "this credential was sealed by another version of postern: update this perimeter, or create the credential again"
            }
            Self::NotForUs => {
                "this credential was sealed before this perimeter was registered: have one that opens it pass it on (`postern perimeter rewrap`), or create the credential again"
            }
            Self::Changed => {
                "this credential or what it may be used for was changed or moved after it was sealed: create it again, and find out who wrote to the database"
            }
        }
    }
}

fn value(sealed: &Sealed, data_key: &[u8], binding: &[u8]) -> Option<SecretBytes> {
    let mut buffer = Zeroizing::new(decoded(&sealed.ciphertext)?);
    let padded = decrypted(data_key, &decoded(&sealed.nonce)?, &value_aad(sealed.version, binding), &mut buffer)?;
    let (length, rest) = padded.split_first_chunk::<4>()?;
    let value = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some(Secret::new(value.to_vec()))
}

/// What lies in `buffer` before its tag, where that is whole.
fn decrypted<'a>(key: &[u8], nonce: &[u8], aad: &[u8], buffer: &'a mut [u8]) -> Option<&'a mut [u8]> {
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    RandomizedNonceKey::new(&AES_256_GCM, key).ok()?.open_in_place(nonce, Aad::from(aad), buffer).ok()
}

/// Strict base64: one text for each value.
fn decoded(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests;

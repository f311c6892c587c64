//! Binds MCP session ids to the caller that they were issued to: the caller gets the server's id with a seal over
//! route and session, and only that caller can bring it back. Keeps no list, so a restart forgets nobody.

use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use aws_lc_rs::hmac;
use http::HeaderValue;

use crate::limits;

/// Seals and opens MCP session ids.
pub(crate) struct Binding(hmac::Key);

/// The id was not issued to this caller on this route, or is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotIssued;

impl Binding {
    /// With the key in this file, which is made where it is missing.
    pub(crate) fn at(file: &Path) -> io::Result<Self> {
        let mut key = [0_u8; KEY_BYTES];
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
            Ok(mut made) => {
                aws_lc_rs::rand::fill(&mut key).map_err(|_| io::Error::other("no random numbers"))?;
                made.write_all(&key)?;
                made.sync_all()?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                OpenOptions::new().read(true).open(file)?.read_exact(&mut key)?;
            }
            Err(error) => return Err(error),
        }
        Ok(Self::with(&key))
    }

    /// With this key.
    pub(crate) fn with(key: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The server's id as this caller gets it; `None` for an id that is none.
    pub(crate) fn seal(&self, caller: &str, route: &str, id: &[u8]) -> Option<HeaderValue> {
        let id = visible(id)?;
        let seal = hmac::sign(&self.0, &text(caller, route, id));
        HeaderValue::try_from(format!("{id}.{}", hex(&seal.as_ref()[..SEAL_BYTES]))).ok()
    }

    /// The server's id in what a caller brings.
    pub(crate) fn open(&self, caller: &str, route: &str, brought: &[u8]) -> Result<HeaderValue, NotIssued> {
        let brought = std::str::from_utf8(brought).map_err(|_| NotIssued)?;
        let (id, seal) = brought.rsplit_once('.').ok_or(NotIssued)?;
        let id = visible(id.as_bytes()).ok_or(NotIssued)?;
        let expected = hex(&hmac::sign(&self.0, &text(caller, route, id)).as_ref()[..SEAL_BYTES]);
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_bytes(), seal.as_bytes());
        if same.is_err() && !postern_danger::off!("gateway-identity") {
            return Err(NotIssued);
        }
        HeaderValue::try_from(id).map_err(|_| NotIssued)
    }
}

/// MCP: visible ASCII.
fn visible(id: &[u8]) -> Option<&str> {
    let fits = (1..=limits::MCP_SESSION_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(id).ok().filter(|_| fits)
}

/// Each part after its length: no two triples make one text.
fn text(caller: &str, route: &str, id: &str) -> Vec<u8> {
    let mut text = b"postern mcp session 1".to_vec();
    for part in [caller, route, id] {
        text.extend_from_slice(&(part.len() as u64).to_le_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const KEY_BYTES: usize = 32;
const SEAL_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_from_its_caller_on_its_route_alone() {
        let binding = Binding::with(&[7; 32]);
        let sealed = binding.seal("sesn_a", "wiki", b"abc.def-1").unwrap();
        assert_eq!(binding.open("sesn_a", "wiki", sealed.as_bytes()).unwrap(), "abc.def-1");
        let refused: &[(&str, &str, &[u8])] = &[
            ("sesn_b", "wiki", sealed.as_bytes()),
            ("sesn_a", "tickets", sealed.as_bytes()),
            ("sesn_awiki", "", sealed.as_bytes()),
            ("sesn_a", "wiki", b"abc.def-1"),
            ("sesn_a", "wiki", b"abc.def-1."),
            ("sesn_a", "wiki", b"other"),
            ("sesn_a", "wiki", b""),
        ];
        for (caller, route, brought) in refused {
            assert_eq!(binding.open(caller, route, brought), Err(NotIssued), "{caller} {route} {brought:?}");
        }
        let another = Binding::with(&[8; 32]);
        assert_eq!(another.open("sesn_a", "wiki", sealed.as_bytes()), Err(NotIssued));
    }

    #[test]
    fn what_is_no_id_is_not_issued() {
        let binding = Binding::with(&[7; 32]);
        for id in [&b""[..], b"a b", b"a\r\nb", b"\xff", &[b'x'; 513]] {
            assert!(binding.seal("sesn_a", "wiki", id).is_none());
        }
    }

    #[test]
    fn the_key_is_made_once_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let sealed = Binding::at(&file).unwrap().seal("sesn_a", "wiki", b"x").unwrap();
        assert!(Binding::at(&file).unwrap().open("sesn_a", "wiki", sealed.as_bytes()).is_ok());
    }
}

//! What a TLS ClientHello asks for, read without ending the connection: the server name, and whether another name is
//! hidden in it. Reads as strictly as any server: a hello that could be read in two ways is none.

/// The parts of a ClientHello that say whom it is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The one server name (RFC 6066, section 3).
    pub(crate) server_name: Option<String>,
    /// Whether it has an encrypted ClientHello: the name that counts is inside and cannot be read.
    pub(crate) hides_a_name: bool,
}

/// What the bytes seen so far are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The beginning of a hello.
    More,
    /// A whole one.
    Hello(Hello),
    /// No ClientHello, or one that could be read in two ways.
    Malformed,
}

/// Reads a hello off the first bytes of a connection (RFC 8446, sections 4.1.2 and 5.1).
pub(crate) fn hear(bytes: &[u8]) -> Heard {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(length) = announced(&message) {
            match message.get(HEADER..HEADER + length) {
                Some(body) if message.len() == HEADER + length => {
                    return client_hello(body).map_or(Heard::Malformed, Heard::Hello);
                }
                // What follows a hello in its own record was written before the server chose anything.
                Some(_) => return Heard::Malformed,
                None if length > LONGEST => return Heard::Malformed,
                None => {}
            }
        }
        match record(rest) {
            Ok(Some((fragment, after))) => {
                if message.is_empty() && fragment[0] != CLIENT_HELLO {
                    return Heard::Malformed;
                }
                message.extend_from_slice(fragment);
                rest = after;
            }
            Ok(None) => return Heard::More,
            Err(NotTls) => return Heard::Malformed,
        }
    }
}

struct NotTls;

/// What was taken off, and the rest.
type Split<'b> = (&'b [u8], &'b [u8]);

/// One handshake record's fragment, and what follows it.
fn record(bytes: &[u8]) -> Result<Option<Split<'_>>, NotTls> {
    let Some((header, rest)) = bytes.split_at_checked(5) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if header[0] != HANDSHAKE || header[1] != 3 || length == 0 || length > RECORD {
        return Err(NotTls);
    }
    Ok(rest.split_at_checked(length))
}

/// The length that a handshake message's header states.
fn announced(message: &[u8]) -> Option<usize> {
    let header = message.get(..HEADER)?;
    usize::try_from(u32::from_be_bytes([0, header[1], header[2], header[3]])).ok()
}

fn client_hello(body: &[u8]) -> Option<Hello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    reader.vector8()?;
    reader.vector16()?;
    reader.vector8()?;
    let mut hello = Hello { server_name: None, hides_a_name: false };
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.vector16()?);
    if !reader.0.is_empty() {
        return None;
    }
    let mut seen = Vec::new();
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.vector16()?;
        if seen.contains(&kind) {
            return None;
        }
        seen.push(kind);
        match kind {
            SERVER_NAME => hello.server_name = Some(server_name(content)?),
            ENCRYPTED_HELLO | ENCRYPTED_NAME => hello.hides_a_name = true,
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(content: &[u8]) -> Option<String> {
    let mut outer = Reader(content);
    let mut list = Reader(outer.vector16()?);
    let host_name = list.take(1)? == [0];
    let name = list.vector16()?;
    let alone = host_name && list.0.is_empty() && outer.0.is_empty();
    std::str::from_utf8(name).ok().filter(|_| alone).map(str::to_owned)
}

/// Reads lengths and what they announce.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<&'b [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Option<&'b [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Type and length of a handshake message.
const HEADER: usize = 4;
/// Bytes of a record's fragment (RFC 8446, section 5.1).
const RECORD: usize = 1 << 14;
/// Bytes of a hello: several times what clients with post-quantum keys send.
pub(crate) const LONGEST: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
/// RFC 9849.
const ENCRYPTED_HELLO: u16 = 0xfe0d;
/// Its predecessor.
const ENCRYPTED_NAME: u16 = 0xffce;

#[cfg(test)]
mod tests;

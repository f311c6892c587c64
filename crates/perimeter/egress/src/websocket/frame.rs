//! Frames of RFC 6455, section 5.2: their heads in bytes and back. Strict: what the RFC forbids is malformed, so that
//! nobody behind us can read the bytes in another way than we did.

use bytes::{BufMut, Bytes, BytesMut};

/// What a frame is (section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// More of a message.
    Continuation,
    /// The beginning of a message of text.
    Text,
    /// The beginning of a message of bytes.
    Binary,
    /// The sender is done.
    Close,
    /// Are you there?
    Ping,
    /// I am.
    Pong,
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// What it is.
    pub(crate) opcode: Opcode,
    /// Whether its message ends with it.
    pub(crate) last: bool,
    /// What its payload is masked with.
    pub(crate) mask: Option<[u8; 4]>,
    /// Bytes of its payload.
    pub(crate) length: u64,
}

/// A frame that breaks the protocol, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl Opcode {
    /// Whether it is about the connection, not part of a message (section 5.5).
    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn parse(number: u8) -> Result<Self, Malformed> {
        match number {
            0 => Ok(Self::Continuation),
            1 => Ok(Self::Text),
            2 => Ok(Self::Binary),
            8 => Ok(Self::Close),
            9 => Ok(Self::Ping),
            10 => Ok(Self::Pong),
            _ => Err(Malformed("an opcode that is reserved")),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }
}

impl Head {
    /// The head at the beginning of `bytes` and its length, once it is there whole.
    ///
    /// # Errors
    /// When no bytes that follow could make it a head.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(Malformed("an extension that was not agreed"));
        }
        let (opcode, last) = (Opcode::parse(first & 0x0f)?, first & LAST != 0);
        let Some((length, after_length)) = length(second & 0x7f, rest)? else { return Ok(None) };
        if opcode.is_control() && (!last || length > CONTROL_BYTES) {
            return Err(Malformed("a control frame that is long or in pieces"));
        }
        let mask_bytes = if second & MASKED == 0 { 0 } else { MASK_BYTES };
        let Some(mask) = rest.get(after_length..after_length + mask_bytes) else { return Ok(None) };
        let head = Self { opcode, last, mask: mask.try_into().ok(), length };
        Ok(Some((head, 2 + after_length + mask_bytes)))
    }

    fn put(&self, into: &mut BytesMut) {
        into.put_u8(self.opcode.number() | if self.last { LAST } else { 0 });
        let masked = if self.mask.is_some() { MASKED } else { 0 };
        match self.length {
            short @ 0..126 => into.put_u8(masked | u8::try_from(short).unwrap_or_default()),
            medium @ 126..0x1_0000 => {
                into.put_u8(masked | 126);
                into.put_u16(u16::try_from(medium).unwrap_or_default());
            }
            long => {
                into.put_u8(masked | 127);
                into.put_u64(long);
            }
        }
        into.extend_from_slice(self.mask.as_ref().map_or(&[], <[u8; 4]>::as_slice));
    }
}

/// A whole frame in bytes.
pub(crate) fn render(opcode: Opcode, last: bool, mask: Option<[u8; 4]>, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + HEAD_BYTES);
    Head { opcode, last, mask, length: payload.len() as u64 }.put(&mut frame);
    let at = frame.len();
    frame.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply(mask, 0, &mut frame[at..]);
    }
    frame.freeze()
}

/// Masks, or unmasks, a part of a payload that begins at `offset` (section 5.3).
pub(crate) fn apply(mask: [u8; 4], offset: u64, payload: &mut [u8]) {
    let turned = usize::try_from(offset % 4).unwrap_or_default();
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle().skip(turned)) {
        *byte ^= key;
    }
}

/// The payload's length and how many bytes say so. It must be said in as few as possible.
fn length(short: u8, rest: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let (length, bytes, least) = match (short, rest) {
        (126, &[a, b, ..]) => (u64::from(u16::from_be_bytes([a, b])), 2, 126),
        (127, &[a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 8, 0x1_0000),
        (126 | 127, _) => return Ok(None),
        (short, _) => (u64::from(short), 0, 0),
    };
    if length < least || length > i64::MAX as u64 {
        return Err(Malformed("a length that is written in another way than the RFC's"));
    }
    Ok(Some((length, bytes)))
}

/// The longest head.
pub(crate) const HEAD_BYTES: usize = 14;
/// The longest payload of a control frame (section 5.5).
const CONTROL_BYTES: u64 = 125;
const MASK_BYTES: usize = 4;
const LAST: u8 = 0x80;
const MASKED: u8 = 0x80;
const RESERVED: u8 = 0x70;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opcodes() -> impl Strategy<Value = Opcode> {
        prop::sample::select(vec![
            Opcode::Continuation,
            Opcode::Text,
            Opcode::Binary,
            Opcode::Close,
            Opcode::Ping,
            Opcode::Pong,
        ])
    }

    proptest! {
        #[test]
        fn a_frame_is_read_as_it_was_written_and_no_part_of_its_head_is_taken_for_it(
            opcode in opcodes(),
            last: bool,
            mask in prop::option::of(any::<[u8; 4]>()),
            length in prop::sample::select(vec![0_usize, 1, 125, 126, 127, 65_535, 65_536, 70_000]),
        ) {
            let control = opcode.is_control();
            let (last, length) = (last || control, if control { length.min(125) } else { length });
            let payload: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let frame = render(opcode, last, mask, &payload);
            let (head, taken) = Head::parse(&frame).unwrap().unwrap();
            prop_assert_eq!(head, Head { opcode, last, mask, length: length as u64 });
            let mut read = frame[taken..].to_vec();
            let (begin, end) = read.split_at_mut(length / 3);
            if let Some(mask) = mask {
                apply(mask, 0, begin);
                apply(mask, begin.len() as u64, end);
            }
            prop_assert_eq!(read, payload);
            for cut in 0..taken {
                prop_assert_eq!(Head::parse(&frame[..cut]), Ok(None), "{}", cut);
            }
        }

        #[test]
        fn any_bytes_are_a_head_or_none_and_a_head_is_written_as_it_was_read(bytes: [u8; HEAD_BYTES]) {
            if let Ok(Some((head, taken))) = Head::parse(&bytes) {
                let mut again = BytesMut::new();
                head.put(&mut again);
                prop_assert_eq!(&again[..], &bytes[..taken]);
            }
        }
    }

    #[test]
    fn what_the_rfc_forbids_is_malformed() {
        let table: &[&[u8]] = &[
            b"\xc1\x00",
            b"\xa1\x00",
            b"\x91\x00",
            b"\x83\x00",
            b"\x8b\x00",
            b"\x8f\x00",
            b"\x09\x00",
            b"\x08\x00",
            b"\x89\x7e\x00\x7e",
            b"\x81\x7e\x00\x7d",
            b"\x81\x7f\x00\x00\x00\x00\x00\x00\xff\xff",
            b"\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x00",
        ];
        for bytes in table {
            assert!(Head::parse(bytes).is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn the_examples_of_the_rfc_are_read_and_written() {
        // Section 5.7.
        type Row<'a> = (&'a [u8], Opcode, bool, Option<[u8; 4]>, &'a [u8]);
        let table: &[Row<'_>] = &[
            (b"\x81\x05Hello", Opcode::Text, true, None, b"Hello"),
            (b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", Opcode::Text, true, Some(*b"\x37\xfa\x21\x3d"), b"Hello"),
            (b"\x01\x03Hel", Opcode::Text, false, None, b"Hel"),
            (b"\x80\x02lo", Opcode::Continuation, true, None, b"lo"),
            (b"\x89\x05Hello", Opcode::Ping, true, None, b"Hello"),
            (b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", Opcode::Pong, true, Some(*b"\x37\xfa\x21\x3d"), b"Hello"),
        ];
        for (bytes, opcode, last, mask, payload) in table {
            assert_eq!(render(*opcode, *last, *mask, payload), bytes);
            let (head, _) = Head::parse(bytes).unwrap().unwrap();
            assert_eq!(head, Head { opcode: *opcode, last: *last, mask: *mask, length: payload.len() as u64 });
        }
    }
}

//! Bodies that are made of messages, each with its length before it, as gRPC's are: whoever gets one answers it before the
//! next one comes, so none of it can wait for the next. Knows where messages end; never looks at what they say.

use http::{HeaderMap, header};

/// Where the messages of one body end.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// Of the prefix that is being read: a flag and a length (gRPC over HTTP/2, "Length-Prefixed-Message").
    prefix: [u8; PREFIX_BYTES],
    read: usize,
    /// Bytes of the message that are still to come.
    left: u64,
}

/// Whether a message ends somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It goes on.
    No,
    /// It ends here.
    Here,
}

impl Messages {
    /// For a body with these headers, if it is made of messages.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
        let (Some(kind), None) = (kinds.next(), kinds.next()) else { return None };
        let kind = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let (begin, rest) = kind.split_at_checked(GRPC.len())?;
        let known = begin.eq_ignore_ascii_case(GRPC) && rest.first().is_none_or(|next| *next == b'+');
        known.then(Self::default)
    }

    /// The first bytes of `chunk` that belong to one message, the others, and whether the message ends between them.
    pub(crate) fn split<'a>(&mut self, chunk: &'a [u8]) -> (&'a [u8], &'a [u8], End) {
        let of_prefix = (PREFIX_BYTES - self.read).min(chunk.len());
        let (prefix, rest) = chunk.split_at(of_prefix);
        self.prefix[self.read..self.read + of_prefix].copy_from_slice(prefix);
        self.read += of_prefix;
        if of_prefix > 0 && self.read == PREFIX_BYTES {
            let [_flag, length @ ..] = self.prefix;
            self.left = u64::from(u32::from_be_bytes(length));
        }
        let of_message = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
        self.left -= of_message as u64;
        let (message, after) = chunk.split_at(of_prefix + of_message);
        if self.read == PREFIX_BYTES && self.left == 0 {
            self.read = 0;
            return (message, after, End::Here);
        }
        (message, after, End::No)
    }
}

/// Whether messages are compressed one by one, as a header of theirs says: that is not opened.
pub(crate) fn compressed(headers: &HeaderMap) -> bool {
    let mut stated = MESSAGE_ENCODINGS.iter().flat_map(|name| headers.get_all(*name));
    stated.any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// What asks for compressed messages.
pub(crate) const ACCEPTED_ENCODINGS: &[&str] = &["grpc-accept-encoding", "connect-accept-encoding"];

const GRPC: &[u8] = b"application/grpc";
const PREFIX_BYTES: usize = 5;
const MESSAGE_ENCODINGS: &[&str] = &["grpc-encoding", "connect-content-encoding"];

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_end_where_they_end_however_they_are_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8),
            cut in 1_usize..40,
        ) {
            let mut body = Vec::new();
            for message in &messages {
                body.push(0);
                body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
                body.extend_from_slice(message);
            }
            let (mut reader, mut read, mut one) = (Messages::default(), Vec::new(), Vec::new());
            for mut chunk in body.chunks(cut) {
                while !chunk.is_empty() {
                    let (message, after, end) = reader.split(chunk);
                    one.extend_from_slice(message);
                    chunk = after;
                    if end == End::Here {
                        read.push(std::mem::take(&mut one).split_off(PREFIX_BYTES));
                    }
                }
            }
            prop_assert_eq!((read, one), (messages, Vec::new()));
        }
    }

    #[test]
    fn a_body_is_made_of_messages_where_its_one_type_says_so() {
        let of = |kinds: &[&'static str]| {
            let headers = kinds.iter().map(|kind| (header::CONTENT_TYPE, HeaderValue::from_static(kind)));
            Messages::of(&headers.collect()).is_some()
        };
        assert!(of(&["application/grpc"]) && of(&["application/grpc+proto"]) && of(&["Application/gRPC; x=y"]));
        assert!(
            !of(&[]) && !of(&["application/json"]) && !of(&["application/grpcx"]) && !of(&["application/grpc-web"])
        );
        assert!(!of(&["application/grpc", "application/x-www-form-urlencoded"]));
    }

    #[test]
    fn compressed_messages_are_noticed() {
        let says = |name: &'static str, value: &'static str| {
            compressed(&HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]))
        };
        assert!(says("grpc-encoding", "gzip") && says("connect-content-encoding", "zstd"));
        assert!(!says("grpc-encoding", "identity") && !says("grpc-accept-encoding", "gzip"));
    }
}

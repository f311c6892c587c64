//! What the parsers of foreign bytes make of any bytes, as plain functions without a socket: the fuzz targets and the
//! tests over their corpora call them. They panic where a promise is broken.

mod bodies;
mod heads;
mod messages;
mod place;
mod trailers;

pub use bodies::{http_answer, http_body};
pub use heads::http_request;
pub use messages::{grpc_messages, websocket};
pub use trailers::trailers;

use std::{
    io::Cursor,
    task::{Context, Poll, Waker},
};

use hickory_proto::op::Message;
use postern_policy::Host;
use rustls::server::Acceptor;

use crate::{
    classify::{ENOUGH, Speech, classify},
    datagram, dns,
    hello::{self, Heard},
    limits,
    names::NameTable,
};

/// A verdict on the first bytes stands whatever follows, comes in time, and what is taken for TLS ends as a hello or an
/// error.
///
/// # Panics
/// When one of these does not hold.
pub fn first_bytes(bytes: &[u8]) {
    let mut verdict = Speech::Undecided;
    for length in 0..=bytes.len().min(ENOUGH + 1) {
        let now = classify(&bytes[..length]);
        assert!(verdict == Speech::Undecided || now == verdict, "more bytes never unsay a verdict");
        assert!(length < ENOUGH || now != Speech::Undecided, "so many bytes always decide");
        verdict = now;
    }
    if verdict == Speech::Tls {
        let _host = name_by_rustls(bytes).map(|name| name.parse::<Host>());
    }
}

/// The name in a hello is the one that rustls reads, where it reads one; a verdict stands whatever follows.
///
/// # Panics
/// When one of these does not hold.
pub fn client_hello(bytes: &[u8]) {
    let verdict = hello::hear(bytes);
    let early = (0..bytes.len()).step_by(7).map(|length| hello::hear(&bytes[..length]));
    for earlier in early.filter(|earlier| *earlier != Heard::More) {
        assert_eq!(earlier, verdict, "more bytes never unsay a verdict");
    }
    if let (Heard::Hello(hello), Some(name)) = (verdict, name_by_rustls(bytes)) {
        let ours = hello.server_name.expect("a name that others read is read");
        // A dot at its end is no part of a name; policy reads it so too.
        assert_eq!(ours.parse::<Host>(), name.parse::<Host>(), "{ours} is read as {name}");
    }
}

fn name_by_rustls(bytes: &[u8]) -> Option<String> {
    let (mut acceptor, mut bytes) = (Acceptor::default(), Cursor::new(bytes));
    while acceptor.read_tls(&mut bytes).is_ok_and(|count| count > 0) {
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(started)) => return started.client_hello().server_name().map(str::to_owned),
            Err(_) => return None,
        }
    }
    None
}

/// Whatever asks gets one message with its id and at most one answer, or none; the table never grows beyond its bound.
///
/// # Panics
/// When one of these does not hold.
pub fn dns_question(bytes: &[u8]) {
    let mut names = NameTable::default();
    for _ in 0..2 {
        let Some(answer) = dns::answer(bytes, &mut names) else { return };
        let answer = Message::from_vec(&answer).expect("an answer that can be read");
        assert_eq!(answer.metadata.id.to_be_bytes(), bytes[..2]);
        assert!(answer.answers.len() <= 1 && answer.authorities.is_empty());
        assert!(bytes.len() <= limits::DNS_MESSAGE_BYTES || answer.answers.is_empty());
    }
}

/// A report of the kernel's names no more packets than it has room for.
///
/// # Panics
/// When it does.
pub fn refused_datagram(bytes: &[u8]) {
    assert!(datagram::destinations(bytes).len() <= bytes.len() / 16);
}

/// What is ready when it is asked for: nothing here waits for anybody.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a target that waits"),
    }
}

//! Bodies and streams that are made of messages: WebSocket frames, and messages with their length before them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::at_once;
use crate::{
    messages::{End, Messages},
    websocket::{
        frame::Opcode,
        reader::{Event, Reader, Side},
    },
};

/// The messages of a WebSocket are the same whatever the borders of the reads, in either direction, and none is longer
/// than the bound.
///
/// # Panics
/// When one of these does not hold.
pub fn websocket(bytes: &[u8]) {
    for side in [Side::Client, Side::Server] {
        let whole = read(bytes, side, bytes.len().max(1));
        for size in [1, 5] {
            assert_eq!(read(bytes, side, size), whole, "{side:?} in reads of {size}");
        }
    }
}

/// How a message begins, its bytes, and whether it ends with them.
type Part = (Option<Opcode>, Vec<u8>, bool);

/// Each message, or as much of it as lies between two control frames; and how the stream ended.
fn read(bytes: &[u8], side: Side, size: usize) -> (Vec<Part>, String) {
    let mut reader = Reader::new(Pieces(bytes, size), side, LONGEST);
    let mut parts: Vec<Part> = Vec::new();
    let mut open = false;
    loop {
        match at_once(reader.next()) {
            Ok(Event::Data { begins, bytes, last }) => {
                match parts.last_mut() {
                    Some(part) if open && begins.is_none() => {
                        part.1.extend_from_slice(&bytes);
                        part.2 = last;
                    }
                    _ => parts.push((begins, bytes.to_vec(), last)),
                }
                open = !last;
                assert!(parts.last().is_none_or(|part| part.1.len() as u64 <= LONGEST));
            }
            Ok(Event::Control(opcode, payload)) => {
                parts.push((Some(opcode), payload.to_vec(), true));
                open = false;
            }
            Err(ended) => return (parts, format!("{ended:?}")),
        }
    }
}

/// Gives a few bytes at a time, and at the end the end.
struct Pieces<'b>(&'b [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.1.min(self.0.len()).min(into.remaining());
        let (piece, rest) = self.0.split_at(count);
        into.put_slice(piece);
        self.0 = rest;
        Poll::Ready(Ok(()))
    }
}

/// Messages end where they end, whatever the chunks, and nothing is lost between them.
///
/// # Panics
/// When one of these does not hold.
pub fn grpc_messages(bytes: &[u8]) {
    let whole = ends(bytes, bytes.len().max(1));
    for size in [1, 3] {
        assert_eq!(ends(bytes, size), whole, "chunks of {size}");
    }
}

fn ends(bytes: &[u8], size: usize) -> Vec<usize> {
    let (mut messages, mut ends, mut at) = (Messages::default(), Vec::new(), 0);
    for mut chunk in bytes.chunks(size) {
        while !chunk.is_empty() {
            let (message, rest, end) = messages.split(chunk);
            assert_eq!(message.len() + rest.len(), chunk.len(), "nothing is lost");
            at += message.len();
            match end {
                End::Here => ends.push(at),
                End::No => assert!(rest.is_empty(), "a message that goes on takes all"),
            }
            chunk = rest;
        }
    }
    ends
}

const LONGEST: u64 = 4096;

//! A server as a test plays it, and the worker's client of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use postern_net::{HttpClient, TlsRoots};

use crate::remote::Remote;

/// The client of whoever listens there.
pub(crate) fn remote_of(server: SocketAddr) -> Remote {
    let endpoint = format!("http://{server}").parse().unwrap();
    let http = HttpClient::new(postern_policy::permit::configured(&endpoint), &TlsRoots::Platform).unwrap();
    Remote::new(http, "env_1", "worker")
}

/// A server that answers each path with a status and a body, and wants to be asked again at once; how often it is asked.
pub(crate) fn server(answer: impl Fn(&str) -> (&'static str, Vec<u8>) + Send + 'static) -> (Remote, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    let remote = serving(move |asked, _| {
        count.fetch_add(1, Ordering::SeqCst);
        let (status, body) = answer(asked.split(' ').nth(1).unwrap());
        (status.to_owned(), body)
    });
    (remote, asked)
}

/// The same, that answers method and path, and what was sent.
pub(crate) fn saying(mut answer: impl FnMut(&str, &[u8]) -> (u16, Vec<u8>) + Send + 'static) -> Remote {
    serving(move |asked, sent| {
        let (status, body) = answer(asked, sent);
        (format!("{status} Said"), body)
    })
}

fn serving(mut answer: impl FnMut(&str, &[u8]) -> (String, Vec<u8>) + Send + 'static) -> Remote {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = remote_of(listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = Vec::new();
            while reader.read_until(b'\n', &mut head).unwrap() > 2 {}
            let head = String::from_utf8(head).unwrap();
            let Some(first) = head.lines().next().filter(|line| !line.is_empty()) else { continue };
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut sent = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut sent).unwrap();
            let (status, body) = answer(first.strip_suffix(" HTTP/1.1").unwrap(), &sent);
            let length = body.len();
            let head = "retry-after: 0\r\nconnection: close\r\ncontent-length";
            write!(stream, "HTTP/1.1 {status}\r\n{head}: {length}\r\n\r\n").unwrap();
            // Whoever has read enough does not wait for the rest.
            let _gone = stream.write_all(&body);
        }
    });
    remote
}

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
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = remote_of(listener.local_addr().unwrap());
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = Vec::new();
            while reader.read_until(b'\n', &mut head).unwrap() > 2 {}
            let head = String::from_utf8(head).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            reader.read_exact(&mut body).unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let (status, body) = answer(head.split(' ').nth(1).unwrap());
            let length = body.len();
            let head = "retry-after: 0\r\nconnection: close\r\ncontent-length";
            write!(stream, "HTTP/1.1 {status}\r\n{head}: {length}\r\n\r\n").unwrap();
            // Whoever has read enough does not wait for the rest.
            let _gone = stream.write_all(&body);
        }
    });
    (remote, asked)
}

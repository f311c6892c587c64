//! Every parser of foreign bytes against bytes that nobody meant: whatever comes, it neither panics nor hangs, and
//! nothing of ours reaches an upstream because of it. Each parser is a plain function here, fed from a corpus of what
//! it normally gets, cut, flipped, doubled and followed by noise, and from noise alone.

use std::{io::Cursor, sync::Arc, sync::Mutex, time::Duration};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::LazyConfigAcceptor;

use super::stand::{SECRET, Stand};
use crate::{
    classify::{ENOUGH, Speech, classify},
    datagram, dns,
    names::NameTable,
    phases::{
        identify::{Expected, Named},
        intercept::{Line, http},
    },
    prefixed::Prefixed,
};

/// A damage done to a text.
#[derive(Debug, Clone)]
enum Damage {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    Double(prop::sample::Index, prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        at().prop_map(Damage::Cut),
        (at(), 1_u8..).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        (at(), at()).prop_map(|(from, to)| Damage::Double(from, to)),
        (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ]
}

fn damaged(mut text: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages.iter().filter(|_| !text.is_empty()).cloned().collect::<Vec<_>>() {
        if text.is_empty() {
            break;
        }
        match damage {
            Damage::Cut(at) => text.truncate(at.index(text.len())),
            Damage::Flip(at, mask) => {
                let at = at.index(text.len());
                text[at] ^= mask;
            }
            Damage::Double(from, to) => {
                let (from, to) = (from.index(text.len()), to.index(text.len()));
                let piece = text[from.min(to)..from.max(to)].to_vec();
                text.splice(from..from, piece);
            }
            Damage::Insert(at, bytes) => {
                let at = at.index(text.len());
                text.splice(at..at, bytes);
            }
        }
    }
    text
}

fn inputs(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let spoiled = (prop::sample::select(corpus), prop::collection::vec(damage(), 0..4))
        .prop_map(|(text, damages)| damaged(text, &damages));
    prop_oneof![4 => spoiled, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

fn run<S: Strategy>(cases: u32, inputs: &S, check: impl Fn(S::Value)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(inputs, |input| {
            check(input);
            Ok(())
        })
        .unwrap();
}

fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let settings = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("api.test").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(settings), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn no_bytes_before_a_protocol_is_known_panic_or_hang() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let corpus =
        vec![client_hello(), b"GET / HTTP/1.1\r\n".to_vec(), b"SSH-2.0-x\r\n".to_vec(), b"PRI * HTTP/2.0".to_vec()];
    run(600, &inputs(corpus), |bytes| {
        let verdict = classify(&bytes);
        assert!(bytes.len() < ENOUGH || verdict != Speech::Undecided);
        let listening = async {
            let stream = tokio::io::join(Cursor::new(bytes.clone()), tokio::io::sink());
            let (heard, stream) = Prefixed::hear(stream).await.unwrap();
            assert!(heard == verdict || verdict != Speech::Undecided, "more bytes never unsay a verdict");
            if heard == Speech::Tls {
                // Its end is an error or a hello; a name in it is read as policy reads names.
                if let Ok(started) = LazyConfigAcceptor::new(Acceptor::default(), stream).await {
                    let _host = started.client_hello().server_name().map(str::parse::<postern_policy::Host>);
                }
            }
        };
        runtime.block_on(async { timeout(Duration::from_secs(5), listening).await.expect("no hang") });
    });
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

#[test]
fn no_dns_message_panics_and_every_answer_is_one() {
    let mut corpus: Vec<_> = [1, 28, 65, 255].into_iter().map(|kind| question("api.test", kind)).collect();
    // Pointers to themselves, to each other, and beyond the end.
    for pointer in [&[0xc0, 12][..], &[0xc0, 14, 0xc0, 12], &[0xff, 0xff], &[1, b'a', 0xc0, 12]] {
        let mut message = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(pointer);
        message.extend([0, 1, 0, 1]);
        corpus.push(message);
    }
    let names = Mutex::new(NameTable::default());
    run(2000, &inputs(corpus), |bytes| {
        let answer = dns::answer(&bytes, &mut names.lock().unwrap());
        if let Some(answer) = answer {
            let answer = hickory_proto::op::Message::from_vec(&answer).expect("an answer that can be read");
            assert_eq!(answer.metadata.id.to_be_bytes(), bytes[..2]);
            assert!(answer.answers.len() <= 1);
        }
    });
}

#[test]
fn no_report_of_a_datagram_panics_or_is_read_twice() {
    let one = datagram::sample("203.0.113.9", 443);
    let corpus = vec![one.clone(), [one.clone(), one.clone()].concat(), one[..one.len() - 9].to_vec()];
    run(2000, &inputs(corpus), |bytes| {
        // A message has a header of 16 bytes at least: more destinations than that cannot be in it.
        assert!(datagram::destinations(&bytes).len() <= bytes.len() / 16);
    });
}

#[test]
fn no_request_panics_hangs_or_carries_anything_of_ours_out() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stand = runtime.block_on(Stand::start());
    let own = stand.placeholder.clone();
    let corpus: Vec<Vec<u8>> = [
        format!("GET /v1/x HTTP/1.1\r\nhost: plain.test\r\nauthorization: Bearer {own}\r\n\r\n"),
        format!("GET /?k={own}#f HTTP/1.1\r\nhost: plain.test\r\nx-note: {own}\r\n\r\n"),
        format!("GET http://u:{own}@plain.test/ HTTP/1.1\r\nhost: plain.test\r\nconnection: x-api-key\r\n\r\n"),
        format!("POST / HTTP/1.1\r\nhost: plain.test\r\ncontent-length: {}\r\n\r\n{own}", own.len()),
        format!(
            "POST / HTTP/1.1\r\nhost: plain.test\r\ntransfer-encoding: chunked\r\n\r\n{:x};{own}\r\n{own}\r\n0\r\nx: {own}\r\n\r\n",
            own.len()
        ),
        format!("GET / HTTP/1.1\r\nhost: plain.test\r\n\r\nGET /{own} HTTP/1.1\r\nhost: plain.test\r\n\r\n"),
        "OPTIONS * HTTP/1.1\r\nhost: plain.test\r\nexpect: 100-continue\r\nupgrade: h2c\r\n\r\n".to_owned(),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect();
    let named = Named { host: "plain.test".parse().unwrap(), port: postern_policy::Port::new(80).unwrap() };
    let watch = postern_secret::detect::Detector::new([own.as_bytes(), SECRET.as_bytes()]);
    let arrived = std::cell::Cell::new((0, 0));
    let play = |bytes: Vec<u8>| {
        let line = Line {
            session: stand.session(),
            expected: Expected::Named(named.clone()),
            scheme: postern_policy::Scheme::Http,
            at: named.clone(),
            refused: None,
            tunnel: Mutex::default(),
        };
        let (mut client, stream) = tokio::io::duplex(64 * 1024);
        let talking = async {
            // The server may have heard enough before the end.
            let _early = client.write_all(&bytes).await;
            // A client that has heard nothing for a while goes away; most have all their answers by then.
            let mut piece = [0; 4096];
            while let Ok(Ok(1..)) = timeout(Duration::from_millis(50), client.read(&mut piece)).await {}
            drop(client);
        };
        let both = async { tokio::join!(http(Arc::new(line), stream), talking) };
        runtime.block_on(async { timeout(Duration::from_secs(15), both).await.expect("no hang") });
        for received in std::mem::take(&mut *stand.upstream.received.lock().unwrap()) {
            // The secret may arrive in the one place where it belongs; nothing else of ours anywhere.
            let (injected, rest): (Vec<&str>, Vec<&str>) =
                received.head.lines().partition(|line| line.starts_with("authorization: "));
            assert!(injected.len() <= 1, "{}", received.head);
            let (requests, injections) = arrived.get();
            arrived.set((requests + 1, injections + injected.len()));
            for text in [rest.join("\r\n").as_bytes(), &received.body] {
                assert!(watch.find(text).is_empty(), "{} {:?}", received.head, received.body);
            }
            assert!(!injected.concat().contains(&own), "{}", received.head);
        }
    };
    // Whole first: that something arrives is no matter of luck.
    corpus.iter().cloned().for_each(&play);
    let (whole, injections) = arrived.get();
    assert!(whole > 1 && injections > 0, "hardly anything arrived: {whole} requests, {injections} injections");
    run(150, &inputs(corpus), play);
    let (requests, _) = arrived.get();
    assert!(requests > whole, "of what was garbled nothing arrived: {requests} requests");
}

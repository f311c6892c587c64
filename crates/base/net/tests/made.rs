//! An HTTP client over connections that its caller makes: reuse, bounds, and what is known of a request that got no
//! answer.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postern_net::{ClientError, Connect, Connecting, Duplex, HttpClient};

/// Makes connections to a server in this process that answers `count` requests on each and then closes it, unanswered.
#[derive(Default)]
struct Maker {
    made: AtomicUsize,
    answers: usize,
    refuses: bool,
    /// How long its answers are, where they are not "yes".
    length: Option<usize>,
}

impl Connect for Maker {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async move {
            if self.refuses {
                return Err(io::Error::other("no").into());
            }
            self.made.fetch_add(1, Ordering::SeqCst);
            let (ours, theirs) = tokio::io::duplex(4096);
            let left = Arc::new(AtomicUsize::new(self.answers));
            let answer = self.length.map_or(Bytes::from("yes"), |length| Bytes::from(vec![b'y'; length]));
            let service = service_fn(move |_: Request<Incoming>| {
                let has_one = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
                let answer = answer.clone();
                async move {
                    match has_one {
                        true => Ok(Response::new(Full::new(answer))),
                        false => Err(io::Error::other("enough")),
                    }
                }
            });
            tokio::spawn(async move {
                let _: Result<(), hyper::Error> =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service).await;
            });
            Ok(Box::new(ours) as Box<dyn Duplex>)
        })
    }
}

fn client(maker: &Arc<Maker>, idle: usize) -> HttpClient {
    client_that_keeps(maker, idle, Duration::from_secs(60))
}

fn client_that_keeps(maker: &Arc<Maker>, idle: usize, time: Duration) -> HttpClient {
    let authority = HeaderValue::from_static("inner.example");
    HttpClient::made_by(Arc::clone(maker) as _, "inner".to_owned(), authority, idle, time)
}

fn request() -> Request<Full<Bytes>> {
    Request::post("/x").body(Full::from("body")).unwrap()
}

async fn exchange(client: &HttpClient) -> Bytes {
    let connection = client.acquire().await.unwrap();
    let response = connection.send(request()).await.map_err(|unanswered| unanswered.error).unwrap();
    response.into_body().bytes(100).await.unwrap()
}

/// How many connections three requests take whose answers nobody reads.
async fn connections_of_three_unread(length: usize) -> usize {
    let maker = Arc::new(Maker { answers: 100, length: Some(length), ..Maker::default() });
    let client = client(&maker, 1);
    for _ in 0..3 {
        let connection = client.acquire().await.unwrap();
        connection.send(request()).await.map_err(|unanswered| unanswered.error).unwrap().into_body().finish();
        // Everything is in this thread and in memory: all that can be done is done after some rounds.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }
    maker.made.load(Ordering::SeqCst)
}

#[tokio::test]
async fn the_connection_of_an_answer_that_nobody_reads_is_used_again_unless_it_is_long() {
    assert_eq!(connections_of_three_unread(60 * 1024).await, 1);
    assert_eq!(connections_of_three_unread(70 * 1024).await, 3);
}

#[tokio::test]
async fn connections_are_kept_up_to_the_bound() {
    let maker = Arc::new(Maker { answers: 100, ..Maker::default() });
    let kept = client(&maker, 1);
    for _ in 0..3 {
        assert_eq!(exchange(&kept).await, "yes");
    }
    assert_eq!(maker.made.load(Ordering::SeqCst), 1);
    let unkept = client(&maker, 0);
    for _ in 0..3 {
        assert_eq!(exchange(&unkept).await, "yes");
    }
    assert_eq!(maker.made.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_connection_that_lay_idle_for_its_time_is_not_used_again() {
    let maker = Arc::new(Maker { answers: 100, ..Maker::default() });
    let client = client_that_keeps(&maker, 1, Duration::ZERO);
    for _ in 0..3 {
        assert_eq!(exchange(&client).await, "yes");
    }
    assert_eq!(maker.made.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let maker = Arc::new(Maker { refuses: true, ..Maker::default() });
    let error = client(&maker, 1).acquire().await.err().unwrap();
    assert!(error.is_unsent() && matches!(error, ClientError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn a_request_that_got_no_answer_is_not_handed_back() {
    let maker = Arc::new(Maker { answers: 1, ..Maker::default() });
    let client = client(&maker, 1);
    assert_eq!(exchange(&client).await, "yes");
    let connection = client.acquire().await.unwrap();
    assert!(!connection.is_new());
    let unanswered = connection.send(request()).await.err().unwrap();
    assert!(unanswered.unsent.is_none(), "the server had read it");
    assert!(!unanswered.error.is_unsent());
    assert_eq!(maker.made.load(Ordering::SeqCst), 1, "and it was not sent again");
}

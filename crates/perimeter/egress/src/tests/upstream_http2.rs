//! The upstream's HTTP/2: what it answers is said field by field, trailers and resets included.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::upstream::{Received, Upstream};

/// An answer over HTTP/2.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    /// `None`: the stream ends with the head, or with the trailers.
    pub(super) body: Option<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    /// The stream is reset where its body would be.
    pub(super) reset: bool,
    /// Nothing is ever said.
    pub(super) silent: bool,
}

type Reply = Arc<dyn Fn(&Received) -> Answer + Send + Sync>;

type Turn = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// Whether HTTP/2 is spoken, and what is answered.
#[derive(Clone, Default)]
pub(super) struct Http2 {
    reply: Arc<Mutex<Option<Reply>>>,
    /// Says a message for each that it hears, in the place of one answer.
    turn: Arc<Mutex<Option<Turn>>>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Http2 {
    /// Speaks HTTP/2 from now on.
    pub(super) fn replies(&self, reply: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        *self.reply.lock().unwrap() = Some(Arc::new(reply));
    }

    /// Answers message by message, as gRPC frames them, before the request has ended.
    pub(super) fn talks(&self, turn: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) {
        self.replies(|_| Answer::default());
        *self.turn.lock().unwrap() = Some(Arc::new(turn));
    }

    /// What messages said, one after the other.
    pub(super) fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }

    pub(super) fn offered(&self, tls: &TlsAcceptor) -> TlsAcceptor {
        if self.reply.lock().unwrap().is_none() {
            return tls.clone();
        }
        let mut settings = (**tls.config()).clone();
        settings.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(settings))
    }
}

pub(super) fn answer(body: &str) -> Answer {
    Answer { status: 200, body: Some(Bytes::copy_from_slice(body.as_bytes())), ..Answer::default() }
}

pub(super) fn fields(fields: &[(&str, &str)]) -> HeaderMap {
    let parsed = |(name, value): &(&str, &str)| {
        (http::HeaderName::try_from(*name).unwrap(), http::HeaderValue::try_from(*value).unwrap())
    };
    fields.iter().map(parsed).collect()
}

pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    upstream: Upstream,
    records: Arc<dyn Fn() -> usize + Send + Sync>,
) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (upstream, records_before) = (upstream.clone(), records());
        tokio::spawn(async move {
            let turn = upstream.http2.turn.lock().unwrap().clone();
            if let Some(turn) = turn {
                upstream.received.lock().unwrap().push(head(request.uri(), request.method(), request.headers()));
                return talk(request.into_body(), respond, &turn, &upstream.http2.heard).await;
            }
            let Some(mut received) = read(request).await else { return };
            received.records_before = records_before;
            let reply = upstream.http2.reply.lock().unwrap().clone().unwrap();
            let answer = reply(&received);
            upstream.received.lock().unwrap().push(received);
            write(respond, answer);
        });
    }
}

async fn read(request: Request<RecvStream>) -> Option<Received> {
    let (parts, mut body) = request.into_parts();
    let mut received = head(&parts.uri, &parts.method, &parts.headers);
    while let Some(chunk) = body.data().await {
        let chunk = chunk.ok()?;
        body.flow_control().release_capacity(chunk.len()).ok()?;
        received.body.extend_from_slice(&chunk);
    }
    received.trailers = body.trailers().await.ok()?.unwrap_or_default();
    Some(received)
}

fn head(uri: &http::Uri, method: &http::Method, headers: &HeaderMap) -> Received {
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let target = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let mut head = format!("{method} {target} HTTP/2\r\n:authority: {authority}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
    }
    Received { head, ..Received::default() }
}

async fn talk(mut body: RecvStream, mut respond: SendResponse<Bytes>, turn: &Turn, heard: &Mutex<Vec<u8>>) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    let mut buffer = Vec::new();
    while let Some(Ok(chunk)) = body.data().await {
        let _gone = body.flow_control().release_capacity(chunk.len());
        buffer.extend_from_slice(&chunk);
        while let Some((length, rest)) = buffer.get(1..).and_then(|rest| rest.split_first_chunk()) {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
            let Some(said) = rest.get(..length) else { break };
            let answer = turn(said);
            heard.lock().unwrap().extend_from_slice(said);
            buffer.drain(..5 + length);
            let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
            let _gone = stream.send_data([&[0][..], &length, &answer].concat().into(), false);
        }
    }
}

fn write(mut respond: SendResponse<Bytes>, answer: Answer) {
    if answer.silent {
        tokio::spawn(async move {
            let _open = respond;
            std::future::pending::<()>().await;
        });
        return;
    }
    let mut head = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        head = head.header(name, value);
    }
    let ends = answer.body.is_none() && answer.trailers.is_none() && !answer.reset;
    let Ok(mut stream) = respond.send_response(head.body(()).unwrap(), ends) else { return };
    if answer.reset {
        stream.send_reset(h2::Reason::INTERNAL_ERROR);
        return;
    }
    if let Some(body) = answer.body {
        // Buffered beyond the window: sent as there is room.
        let _gone = stream.send_data(body, answer.trailers.is_none());
    }
    if let Some(trailers) = answer.trailers {
        let _gone = stream.send_trailers(trailers);
    }
}

//! Phase: lets TLS through untouched where a rule says `inspect = false`. Name and address are decided, the connection is
//! recorded with what went each way, and nothing in it is seen, injected or scrubbed.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use postern_audit::{Decision, Kind};
use postern_policy::{Denial, PassPermit, Reason};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional},
    net::TcpStream,
    time::timeout,
};

use super::{
    forward::{self, Dialled},
    identify::Named,
    intercept::{self, Stream},
    record::{self, Pending},
    refuse,
};
use crate::{
    hello::{self, Heard, Hello},
    session::Session,
};

/// Bytes that went through a connection so far, as its record says them however it ends.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// From the sandbox.
    pub(crate) sent: AtomicU64,
    /// To the sandbox.
    pub(crate) received: AtomicU64,
}

/// Carries one connection; a refused one is closed, recorded and told to the worker.
pub(crate) async fn through<S: Stream>(session: &Arc<Session>, named: &Named, permit: &PassPermit, stream: S) {
    let heard = timeout(session.perimeter.bounds.handshake, hear(stream)).await;
    let started = match heard.unwrap_or_else(|_| Err(Denial::new(Reason::LimitTime))) {
        Ok((hello, first, stream)) => meant_for(named, &hello).map(|()| (first, stream)),
        Err(denial) => Err(denial),
    };
    match started {
        Ok((first, stream)) => carry(session, named, permit, &first, stream).await,
        Err(denial) => refuse::connection(session, named, SCHEME, &denial.by(permit.rule())).await,
    }
}

/// Reads up to the end of the hello.
async fn hear<S: Stream>(mut stream: S) -> Result<(Hello, Vec<u8>, S), Denial> {
    let malformed = || Denial::advising(Reason::ProtocolUnknown, "begin with one well-formed TLS ClientHello");
    let mut first = Vec::new();
    loop {
        match hello::hear(&first) {
            Heard::Hello(hello) => return Ok((hello, first, stream)),
            Heard::Malformed => return Err(malformed()),
            Heard::More if first.len() > 2 * hello::LONGEST => return Err(malformed()),
            Heard::More => {}
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(count) if count > 0 => first.extend_from_slice(&piece[..count]),
            Ok(_) | Err(_) => return Err(malformed()),
        }
    }
}

/// The name that the upstream will go by must be the one that was decided on, and in the open.
fn meant_for(named: &Named, hello: &Hello) -> Result<(), Denial> {
    intercept::check_server_name(named, hello.server_name.as_deref())?;
    if hello.hides_a_name {
        let step = "connect without an encrypted ClientHello: this host is decided by the TLS server name";
        return Err(Denial::advising(Reason::SniMissing, step));
    }
    Ok(())
}

async fn carry<S: Stream>(session: &Arc<Session>, named: &Named, permit: &PassPermit, first: &[u8], stream: S) {
    let destination = record::of_connection(named, SCHEME);
    let allowed = match allowed(session, named, permit).await {
        Ok(allowed) => allowed,
        Err(denial) => return refuse::unanswered(session, named, &denial),
    };
    let dialled = Dialled::default();
    let mut pending = Pending::new(session, allowed, destination, dialled.clone());
    let traffic = Arc::new(Traffic::default());
    pending.outcome.passed = Some(traffic.clone());
    match forward::dial(session, permit, permit.port(), &dialled).await {
        Ok((upstream, _)) => {
            pending.outcome.ended = exchange(session, first, stream, upstream, &traffic).await;
            pending.ended();
        }
        Err(denial) => {
            pending.refused(&denial).await;
            refuse::unanswered(session, named, &denial);
        }
    }
}

async fn allowed(session: &Session, named: &Named, permit: &PassPermit) -> Result<u64, Denial> {
    if postern_danger::off!("audit-before-act") {
        return Ok(0);
    }
    let mut record = record::base(session, Kind::EgressConnect, Decision::Allow);
    record.rule = Some(permit.rule().to_owned());
    record.destination = Some(record::of_connection(named, SCHEME));
    record.outcome = Some("uninspected".to_owned());
    record.digests.insert("policy".to_owned(), permit.policy_digest().to_owned());
    record::write(session, record).await
}

/// How it ended.
async fn exchange<S: Stream>(
    session: &Session,
    first: &[u8],
    stream: S,
    mut upstream: TcpStream,
    traffic: &Traffic,
) -> &'static str {
    if upstream.write_all(first).await.is_err() {
        return "cut short by the upstream";
    }
    let mut inside = Counted { stream, read: &traffic.sent };
    traffic.sent.fetch_add(first.len() as u64, Ordering::Relaxed);
    let mut outside = Counted { stream: upstream, read: &traffic.received };
    tokio::select! {
        ended = copy_bidirectional(&mut inside, &mut outside) => if ended.is_ok() { "closed" } else { "cut short" },
        () = silence(traffic, session.perimeter.bounds.passed_idle) => "silent for too long",
    }
}

/// Waits until nothing went either way for so long.
async fn silence(traffic: &Traffic, idle: Duration) {
    let seen = || traffic.sent.load(Ordering::Relaxed) + traffic.received.load(Ordering::Relaxed);
    loop {
        let before = seen();
        tokio::time::sleep(idle).await;
        if seen() == before {
            return;
        }
    }
}

/// A stream whose bytes are counted as they are read.
struct Counted<'t, S> {
    stream: S,
    read: &'t AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        self.read.fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// How records call it.
const SCHEME: &str = "https";

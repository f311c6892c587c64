//! Phase: brings a permitted WebSocket about. The upstream is asked with a handshake of our own, over a connection of its
//! own; what both sides agreed to is relayed until it ends, under the one permit and the one record of its handshake.

use std::sync::{Arc, PoisonError};

use http::{Request, Response, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use postern_policy::{Denial, Permit, Reason};
use tokio::time::timeout;

use super::{
    download,
    forward::{self, Dialled},
    identify::{Asked, Named},
    intercept::Line,
    record::{Outcome, Pending},
    scrub,
    streams::Open,
};
use crate::{
    body::{self, Body},
    session::Session,
    websocket::{
        handshake::{self, Handshake},
        relay::relay,
    },
};

/// The sandbox's side of a connection that is to become a WebSocket.
pub(crate) struct Wanted {
    /// How it was asked for.
    pub(crate) handshake: Handshake,
    /// What it becomes once it is answered.
    pub(crate) agent: OnUpgrade,
    /// The stream, over HTTP/2.
    pub(crate) open: Option<Open>,
}

/// Asks the upstream and answers as it does: with the WebSocket, or with whatever else it says, like any request.
pub(crate) async fn answer(
    line: &Line,
    pending: &mut Pending,
    asked: &Asked,
    permit: &Permit,
    mut head: Parts,
    wanted: Wanted,
    dialled: &Dialled,
) -> Result<Response<Body>, Denial> {
    let session = &line.session;
    let key = handshake::ask(&mut head.headers)?;
    let request = Request::from_parts(head, body::empty());
    let sending = forward::send_alone(session, permit, request, dialled);
    let sent = timeout(session.perimeter.bounds.response_head, sending)
        .await
        .unwrap_or_else(|_| Err(Denial::new(Reason::LimitTime)))?;
    if sent.response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return download::answer(pending, asked, sent, None, session, wanted.open).await;
    }
    handshake::agreed(&sent.response, &key)?;
    let (headers, scrubbed) = scrub::switching(session, &asked.named.host, &sent.response);
    pending.outcome = Outcome { status: Some(sent.response.status().as_u16()), scrubbed, ..Outcome::default() };
    let agreed = Agreed {
        session: session.clone(),
        named: asked.named.clone(),
        pending: pending.hand_over(),
        agent: wanted.agent,
        upstream: hyper::upgrade::on(sent.response),
        _open: wanted.open,
    };
    let (parts, ()) = handshake::answer(&wanted.handshake, headers).into_parts();
    match wanted.handshake {
        // In the connection's own task: it is still that one connection.
        Handshake::Http1(_) => {
            *line.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(agreed.carry()));
        }
        Handshake::Http2 => {
            let total = session.perimeter.bounds.connection_total;
            session.spawn(async move {
                let _in_time = timeout(total, agreed.carry()).await;
            });
        }
    }
    Ok(Response::from_parts(parts, body::empty()))
}

/// A WebSocket that both sides agreed to.
struct Agreed {
    session: Arc<Session>,
    named: Named,
    pending: Pending,
    agent: OnUpgrade,
    upstream: OnUpgrade,
    _open: Option<Open>,
}

impl Agreed {
    async fn carry(mut self) {
        let (Ok(agent), Ok(upstream)) = tokio::join!(self.agent, self.upstream) else {
            self.pending.outcome.ended = "cut short before the first frame";
            return self.pending.ended();
        };
        relay(&self.session, &self.named, TokioIo::new(agent), TokioIo::new(upstream), &mut self.pending).await;
    }
}

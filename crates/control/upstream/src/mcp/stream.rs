//! The event stream that answers one request: bounded in time, in bytes and in the size of each event. It ends with the
//! answer, or with a failure in the request's record.

use std::collections::VecDeque;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use postern_net::{Body, ClientError, sse};
use rmcp::model::RequestId;
use rmcp::transport::streamable_http_client::SseError;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sse_stream::Sse;
use tokio::sync::OwnedSemaphorePermit;

use super::failure::of_client;
use super::http::settled;
use super::record::Mark;
use super::{Limits, McpFailure};

pub(super) struct Events {
    body: Body,
    decoder: sse::Decoder,
    ready: VecDeque<Sse>,
    left_bytes: usize,
    left_events: usize,
    result_bytes: usize,
    expected: RequestId,
    is_answered: bool,
    has_ended: bool,
    mark: Mark,
    until: Instant,
    _place: Option<OwnedSemaphorePermit>,
}

/// The least that tells whether an event holds a JSON-RPC message, and whether it is the answer.
#[derive(Deserialize)]
struct Shape {
    jsonrpc: String,
    #[serde(default)]
    id: Option<RequestId>,
    #[serde(default)]
    method: Option<IgnoredAny>,
}

impl Events {
    pub(super) fn new(
        body: Body,
        limits: &Limits,
        expected: RequestId,
        mark: Mark,
        until: Instant,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        // A line is an event's data and its field name.
        let decoder = sse::Decoder::new(limits.result_bytes + 64, limits.result_bytes);
        Self {
            body,
            decoder,
            ready: VecDeque::new(),
            left_bytes: limits.stream_bytes,
            left_events: limits.stream_events,
            result_bytes: limits.result_bytes,
            expected,
            is_answered: false,
            has_ended: false,
            mark,
            until,
            _place: place,
        }
    }

    pub(super) fn into_stream(self) -> BoxStream<'static, Result<Sse, SseError>> {
        stream::unfold(self, |mut events| async move {
            let event = events.next().await?;
            Some((Ok(event), events))
        })
        .boxed()
    }

    /// The next event; `None` after the last. A failure ends the stream and is kept in the record, which the waiting
    /// call looks into.
    async fn next(&mut self) -> Option<Sse> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let chunk = match tokio::time::timeout_at(self.until.into(), self.body.chunk()).await {
                Ok(chunk) => chunk,
                Err(_) if self.is_answered => return None,
                Err(_) => {
                    return self.fail(McpFailure::new(
                        "timeout",
                        "The MCP server's event stream did not bring the answer in time.",
                        "Ask for less at a time; if it stays so, look at the MCP server.",
                    ));
                }
            };
            if let Err(failure) = self.take(chunk) {
                return self.fail(failure);
            }
            if self.ready.is_empty() && self.has_ended {
                return None;
            }
        }
    }

    fn take(&mut self, chunk: Result<Option<bytes::Bytes>, ClientError>) -> Result<(), McpFailure> {
        let Some(chunk) = chunk.map_err(|error| of_client(&error, self.result_bytes))? else {
            self.has_ended = true;
            return if self.is_answered {
                Ok(())
            } else {
                Err(McpFailure::broken("its event stream ended without the answer"))
            };
        };
        self.left_bytes =
            self.left_bytes.checked_sub(chunk.len()).ok_or_else(|| McpFailure::too_large(self.result_bytes))?;
        let events = self.decoder.push(&chunk).map_err(|error| match error {
            sse::SseError::NotUtf8 => McpFailure::protocol("its event stream is not UTF-8"),
            _ => McpFailure::too_large(self.result_bytes),
        })?;
        for event in events {
            self.keep(event)?;
        }
        Ok(())
    }

    fn keep(&mut self, event: sse::Event) -> Result<(), McpFailure> {
        // Events without data only name a place to resume at.
        if self.is_answered || event.event != "message" || event.data.trim().is_empty() {
            return Ok(());
        }
        // Each is work for us, and one that asks something is answered by a request of its own.
        self.left_events = self.left_events.checked_sub(1).ok_or_else(|| {
            McpFailure::new(
                "result_too_large",
                "The MCP server's event stream has too many events.",
                "Ask the tool for less at a time.",
            )
        })?;
        let shape: Shape = serde_json::from_str(&event.data)
            .map_err(|_| McpFailure::protocol("an event of its stream is not one JSON-RPC message"))?;
        if shape.jsonrpc != "2.0" {
            return Err(McpFailure::protocol("an event of its stream is not JSON-RPC 2.0"));
        }
        self.is_answered = shape.method.is_none() && shape.id.as_ref() == Some(&self.expected);
        if shape.method.is_none() && !self.is_answered {
            return Err(McpFailure::protocol("its event stream answers another request"));
        }
        self.ready.push_back(Sse::default().data(event.data));
        Ok(())
    }

    fn fail(&mut self, failure: McpFailure) -> Option<Sse> {
        self.ready.clear();
        if !self.is_answered {
            self.mark.record.fail(&settled(failure, &self.mark));
        }
        None
    }
}

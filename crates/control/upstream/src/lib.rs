//! The client of the model's endpoint: builds Messages API requests from a conversation, reads the streamed answer, says
//! what kind of failure a failure is.
//!
//! [`mcp`] is the client of MCP servers, [`webhook`] of those who are told of events, [`web`] of pages and searches.
//!
//! Decides nothing about turns or retries and keeps nothing between requests but the list of models.

mod client;
mod failure;
pub mod mcp;
mod models;
mod public;
mod request;
mod stream;
mod tools;
pub mod web;
pub mod webhook;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use postern_model::model_info::ModelInfo;
use postern_session::ModelEvent;
use tokio::sync::mpsc;

pub use client::{Client, Settings};
pub use request::{Given, MAX_OUTPUT_TOKENS, body, question};
pub use stream::{Decoder, StreamError};
#[doc(hidden)]
pub use web::fuzzing;

/// A model's endpoint: [`Client`], or a scripted one in tests.
pub trait Model: Send + Sync + 'static {
    /// Begins a request with this body. News arrive on the receiver, the last being `Finished` or `Failed`; dropping it
    /// cancels the request.
    fn start(&self, body: Bytes) -> mpsc::Receiver<ModelEvent>;

    /// The models to choose from, newest first.
    fn models(&self) -> Pin<Box<dyn Future<Output = Vec<ModelInfo>> + Send + '_>>;

    /// The model of this id, or that this is another name of.
    fn named<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Option<ModelInfo>> + Send + 'a>> {
        Box::pin(async move { self.models().await.into_iter().find(|model| model.id == name) })
    }
}

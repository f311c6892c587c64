//! The server's web tools: fetching a page as text, and asking a search provider.
//!
//! What may be fetched was decided before an order gets here; each redirect is decided anew, and each address when its name
//! is looked up. Sends nothing of a session but the URL or the query, and no credential but the provider's own to the provider.

mod fetch;
#[doc(hidden)]
pub mod fuzzing;
mod html;
mod page;
mod search;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use postern_session::{WebErrorCode, WebFailure, WebOrder};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use crate::public::Public;
pub use search::{Provider, ProviderKind};

/// How long a fetch may take with all its redirects, and a search.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How many redirects are followed.
pub const REDIRECTS: usize = 5;
/// How much of a body is read, in bytes, and how much is made of a compressed one.
pub const BODY_BYTES: usize = 5 << 20;
/// How many fetches and searches run at once, in all sessions.
pub const AT_ONCE: usize = 64;

/// What becomes of an order: what the model is shown.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<String, WebFailure>> + Send + 'a>>;

/// Whoever runs the web tools: [`Browser`], or a scripted one in tests.
pub trait Web: Send + Sync + 'static {
    /// Runs an order once. Cancelling closes its connection.
    fn run(&self, order: WebOrder) -> Running<'_>;
}

/// Fetches pages, and searches where it has a provider.
pub struct Browser {
    /// How long an order may take.
    pub patience: Duration,
    public: Public,
    provider: Option<Provider>,
    room: Semaphore,
}

impl Browser {
    /// One that dials what `public` allows.
    #[must_use]
    pub fn new(public: Public, provider: Option<Provider>) -> Self {
        Self { patience: PATIENCE, public, provider, room: Semaphore::new(AT_ONCE) }
    }

    async fn obey(&self, order: WebOrder) -> Result<String, WebFailure> {
        // The semaphore is never closed.
        let _room = self.room.acquire().await;
        match order {
            WebOrder::Fetch { url, rules, max_content_tokens } => {
                fetch::fetch(&self.public, url, &rules, max_content_tokens).await
            }
            WebOrder::Search { query, rules, location } => match &self.provider {
                Some(provider) => provider.search(&query, &rules, location.as_ref()).await,
                None => Err(unavailable("This server has no search provider. Go on without a search.")),
            },
        }
    }
}

impl Web for Browser {
    fn run(&self, order: WebOrder) -> Running<'_> {
        Box::pin(async move {
            let code = match order {
                WebOrder::Fetch { .. } => WebErrorCode::UrlNotAccessible,
                WebOrder::Search { .. } => WebErrorCode::Unavailable,
            };
            let late = || {
                let message = format!("There was no answer within {} s. Go on without it.", self.patience.as_secs());
                WebFailure::new(code, message)
            };
            timeout(self.patience, self.obey(order)).await.unwrap_or_else(|_| Err(late()))
        })
    }
}

fn unavailable(message: &str) -> WebFailure {
    WebFailure::new(WebErrorCode::Unavailable, message)
}

//! Bodies that are read as they arrive, within bounds: forms of `multipart/form-data`, and bytes as they are.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use multer::{Field, Multipart};
use postern_model::Problem;
use postern_model::problem::Kind;

use crate::body;

/// The longest text part, in bytes.
const MAX_TEXT: usize = 4 * 1024;
/// What may arrive before a part begins, in bytes, and the chunk that comes with the last of them: all of it is held
/// until then.
const MAX_BETWEEN: usize = 64 * 1024;

#[cfg(test)]
mod tests;

/// A body that arrives.
pub(crate) struct Form {
    parts: Multipart<'static>,
    allowance: Allowance,
    patience: Duration,
    contents: Contents,
}

/// A digest of what the parts of a form hold, in their order: not of the boundary between them, which another try has
/// another of.
#[derive(Clone)]
pub(crate) struct Contents(Arc<Mutex<Context>>);

impl Contents {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Context::new(&SHA256))))
    }

    /// Adds a text with its length, so that no two lists of texts are one; nothing is another than an empty one.
    fn add(&self, text: Option<&[u8]>) {
        let mut context = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        context.update(&text.map_or(u64::MAX, |text| text.len() as u64).to_be_bytes());
        context.update(text.unwrap_or_default());
    }

    /// The digest of what has arrived.
    pub(crate) fn digest(&self) -> Digest {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().finish()
    }
}

/// How many bytes more are read of the body: without end while a part is read, whose reader says when it has enough.
#[derive(Clone)]
struct Allowance(Arc<AtomicUsize>);

impl Default for Allowance {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }
}

impl Allowance {
    fn begin(&self) {
        self.0.store(MAX_BETWEEN, Ordering::Relaxed);
    }

    fn lift(&self) {
        self.0.store(usize::MAX, Ordering::Relaxed);
    }

    fn take(&self, bytes: usize) {
        let left = self.0.load(Ordering::Relaxed);
        if left != usize::MAX {
            self.0.store(left.saturating_sub(bytes), Ordering::Relaxed);
        }
    }

    fn is_used_up(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// A part of it; it must be read before the next one is.
pub(crate) struct Part {
    field: Field<'static>,
    patience: Duration,
    contents: Contents,
    bytes: Context,
}

impl Form {
    /// The form in a request's body. `patience` is how long the client may send nothing.
    ///
    /// # Errors
    /// 400 when the body is another kind or encoded.
    pub(crate) fn read(headers: &HeaderMap, body: Body, patience: Duration) -> Result<Self, Problem> {
        body::refuse_encoded(headers)?;
        let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let boundary = multer::parse_boundary(kind)
            .map_err(|_| Problem::invalid("This route takes a body of multipart/form-data with a boundary."))?;
        let (allowance, mut bytes) = (Allowance::default(), body.into_data_stream().map_err(std::io::Error::other));
        let (counted, mut has_given) = (allowance.clone(), false);
        let bytes = stream::poll_fn(move |context| {
            // Nobody wakes whoever waits here: `head` looks, and waits no longer.
            if counted.is_used_up() {
                return Poll::Pending;
            }
            // A chunk at a time: the parser takes whatever is there before it looks at it.
            if std::mem::take(&mut has_given) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let next = ready!(bytes.poll_next_unpin(context));
            has_given = true;
            counted.take(next.as_ref().and_then(|next| next.as_ref().ok()).map_or(0, Bytes::len));
            Poll::Ready(next)
        });
        Ok(Self { parts: Multipart::new(bytes, boundary), allowance, patience, contents: Contents::new() })
    }

    /// The next part.
    ///
    /// # Errors
    /// 400 when the body is malformed, slow or cut off, or when too much comes before the part begins.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>, Problem> {
        let Some(field) = within(self.patience, self.head()).await? else { return Ok(None) };
        for said in [field.name(), field.file_name(), field.content_type().map(AsRef::as_ref)] {
            self.contents.add(said.map(str::as_bytes));
        }
        let (contents, bytes) = (self.contents.clone(), Context::new(&SHA256));
        Ok(Some(Part { field, patience: self.patience, contents, bytes }))
    }

    /// The head of the next part.
    async fn head(&mut self) -> Result<Option<Field<'static>>, Problem> {
        self.allowance.begin();
        let head = poll_fn(|context| {
            let mut head = self.parts.poll_next_field(context);
            if head.is_pending() && self.allowance.is_used_up() {
                // What came last may not have been looked at yet.
                head = self.parts.poll_next_field(context);
                if head.is_pending() {
                    return Poll::Ready(Err(too_much_between()));
                }
            }
            head.map_err(malformed)
        });
        let head = head.await;
        self.allowance.lift();
        head
    }

    /// What the parts hold that were read to their ends.
    pub(crate) fn contents(&self) -> Contents {
        self.contents.clone()
    }
}

impl Part {
    /// The name of the field, without the brackets of a list.
    pub(crate) fn name(&self) -> &str {
        let name = self.field.name().unwrap_or_default();
        name.strip_suffix("[]").unwrap_or(name)
    }

    /// The name of the file, as sent.
    pub(crate) fn filename(&self) -> Option<&str> {
        self.field.file_name()
    }

    /// The media type, as sent.
    pub(crate) fn content_type(&self) -> Option<&str> {
        self.field.content_type().map(AsRef::as_ref)
    }

    /// The next bytes of a file.
    ///
    /// # Errors
    /// As [`Form::next`].
    pub(crate) async fn bytes(&mut self) -> Result<Option<Bytes>, Problem> {
        let bytes = within(self.patience, async { self.field.chunk().await.map_err(malformed) }).await?;
        match &bytes {
            Some(bytes) => self.bytes.update(bytes),
            None => self.contents.add(Some(self.bytes.clone().finish().as_ref())),
        }
        Ok(bytes)
    }

    /// A short text.
    ///
    /// # Errors
    /// As [`Form::next`]; 400 when it is long or not UTF-8.
    pub(crate) async fn text(mut self) -> Result<String, Problem> {
        let name = self.name().to_owned();
        let mut text = Vec::new();
        while let Some(bytes) = self.bytes().await? {
            text.extend_from_slice(&bytes);
            if text.len() > MAX_TEXT {
                return Err(Problem::invalid_at(&name, format!("must be at most {MAX_TEXT} bytes")));
            }
        }
        String::from_utf8(text).map_err(|_| Problem::invalid_at(&name, "is not UTF-8"))
    }
}

/// Bytes that arrive as they are.
pub(crate) struct Raw {
    body: BodyDataStream,
    patience: Duration,
}

impl Raw {
    /// The bytes of a request's body.
    ///
    /// # Errors
    /// 400 when it is encoded.
    pub(crate) fn read(headers: &HeaderMap, body: Body, patience: Duration) -> Result<Self, Problem> {
        body::refuse_encoded(headers)?;
        Ok(Self { body: body.into_data_stream(), patience })
    }

    /// The next bytes.
    ///
    /// # Errors
    /// 400 when the body is slow or cut off.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match tokio::time::timeout(self.patience, self.body.try_next()).await {
            Err(_) => Err(too_slow()),
            Ok(bytes) => bytes.map_err(|_| cut_off()),
        }
    }
}

fn too_slow() -> Problem {
    Problem::invalid("The request body did not arrive in time.").with_code("request_body_timeout")
}

fn cut_off() -> Problem {
    Problem::invalid("The request body was cut off.")
}

fn too_much_between() -> Problem {
    Problem::invalid(format!(
        "The form has more than {} KiB between two parts: send each part's headers, then its bytes, and nothing else.",
        MAX_BETWEEN / 1024
    ))
    .with_code("form_head_too_large")
}

async fn within<T>(patience: Duration, read: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    tokio::time::timeout(patience, read).await.unwrap_or_else(|_| Err(too_slow()))
}

fn malformed(error: multer::Error) -> Problem {
    match error {
        multer::Error::StreamReadFailed(_)
        | multer::Error::IncompleteStream
        | multer::Error::IncompleteHeaders
        | multer::Error::IncompleteFieldData { .. } => cut_off(),
        error => Problem::new(Kind::InvalidRequest, format!("The request body is not multipart/form-data: {error}.")),
    }
}

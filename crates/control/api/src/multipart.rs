//! Bodies that are read as they arrive, within bounds: forms of `multipart/form-data`, and bytes as they are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use multer::{Field, Multipart};
use postern_model::Problem;
use postern_model::problem::Kind;

use crate::body;

/// The longest text part, in bytes.
const MAX_TEXT: usize = 4 * 1024;

/// A body that arrives.
pub(crate) struct Form {
    parts: Multipart<'static>,
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
        let bytes = body.into_data_stream().map_err(std::io::Error::other);
        Ok(Self { parts: Multipart::new(bytes, boundary), patience, contents: Contents::new() })
    }

    /// The next part.
    ///
    /// # Errors
    /// 400 when the body is malformed, slow or cut off.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>, Problem> {
        let Some(field) = within(self.patience, self.parts.next_field()).await? else { return Ok(None) };
        for said in [field.name(), field.file_name(), field.content_type().map(AsRef::as_ref)] {
            self.contents.add(said.map(str::as_bytes));
        }
        let (contents, bytes) = (self.contents.clone(), Context::new(&SHA256));
        Ok(Some(Part { field, patience: self.patience, contents, bytes }))
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
        let bytes = within(self.patience, self.field.chunk()).await?;
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

async fn within<T>(patience: Duration, read: impl Future<Output = multer::Result<T>>) -> Result<T, Problem> {
    match tokio::time::timeout(patience, read).await {
        Err(_) => Err(too_slow()),
        Ok(Ok(value)) => Ok(value),
        Ok(Err(
            multer::Error::StreamReadFailed(_)
            | multer::Error::IncompleteStream
            | multer::Error::IncompleteHeaders
            | multer::Error::IncompleteFieldData { .. },
        )) => Err(cut_off()),
        Ok(Err(error)) => {
            Err(Problem::new(Kind::InvalidRequest, format!("The request body is not multipart/form-data: {error}.")))
        }
    }
}

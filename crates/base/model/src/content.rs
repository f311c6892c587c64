//! Content blocks: what messages and tool results are made of (contract 3.1).
//!
//! Only shapes. Which block may stand where is decided by [`crate::event`].

use serde::{Deserialize, Serialize};

/// One block of a message or a tool result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Block {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// A picture.
    Image {
        /// Where its bytes are.
        source: ImageSource,
    },
    /// A document.
    Document {
        /// Where its bytes are.
        source: DocumentSource,
        /// A title shown to the model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        /// Context shown to the model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        context: Option<String>,
    },
    /// One result of a search.
    SearchResult {
        /// The URL it came from.
        source: String,
        /// Its title.
        title: String,
        /// Whether the model may cite it.
        citations: Citations,
        /// Its text.
        content: Vec<TextBlock>,
    },
    /// Content the server withheld; never accepted from a client.
    Redacted {},
}

impl Block {
    /// A text block.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }

    /// The wire name of this block's kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text { .. } => "text",
            Self::Image { .. } => "image",
            Self::Document { .. } => "document",
            Self::SearchResult { .. } => "search_result",
            Self::Redacted {} => "redacted",
        }
    }

    /// The text of a text block.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text { text } => Some(text),
            Self::Image { .. } | Self::Document { .. } | Self::SearchResult { .. } | Self::Redacted {} => None,
        }
    }

    /// The id of the file that a picture or document is.
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Image { source: ImageSource::File { file_id } }
            | Self::Document { source: DocumentSource::File { file_id }, .. } => Some(file_id),
            Self::Image { .. }
            | Self::Document { .. }
            | Self::Text { .. }
            | Self::SearchResult { .. }
            | Self::Redacted {} => None,
        }
    }

    /// Why a model endpoint would refuse this block: then every later request of the session would be refused with it.
    pub fn unreadable(&self) -> Option<&'static str> {
        match self {
            Self::Image { source: ImageSource::Base64 { data, media_type } } => {
                match IMAGES.contains(&media_type.as_str()) {
                    false => Some("`media_type` must be image/jpeg, image/png, image/gif or image/webp"),
                    true => not_base64(data),
                }
            }
            Self::Document { source: DocumentSource::Base64 { data, media_type }, .. } => match media_type.as_str() {
                "application/pdf" => not_base64(data),
                _ => Some("`media_type` must be application/pdf"),
            },
            Self::Document { source: DocumentSource::Text { media_type, .. }, .. } if media_type != "text/plain" => {
                Some("`media_type` must be text/plain")
            }
            Self::Image { source: ImageSource::Url { url } }
            | Self::Document { source: DocumentSource::Url { url }, .. } => {
                let is_web = url.starts_with("https://") || url.starts_with("http://");
                (!is_web).then_some("`url` must be an http or https URL")
            }
            _ => None,
        }
    }
}

/// The image types that the Messages API reads.
const IMAGES: &[&str] = &["image/jpeg", "image/png", "image/gif", "image/webp"];

fn not_base64(data: &str) -> Option<&'static str> {
    let digits = data.trim_end_matches('=');
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    let is_whole = data.len().is_multiple_of(4) && data.len() - digits.len() <= 2;
    (digits.is_empty() || !is_whole || !digits.bytes().all(is_digit)).then_some("`data` must be base64")
}

/// Text inside a search result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum TextBlock {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
}

/// Whether a search result may be cited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Citations {
    /// True when the model may cite the result.
    pub enabled: bool,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageSource {
    /// Inline bytes.
    Base64 {
        /// Base64 of the bytes.
        data: String,
        /// Their media type.
        media_type: String,
    },
    /// A URL that the model's endpoint fetches.
    Url {
        /// The URL.
        url: String,
    },
    /// An uploaded file.
    File {
        /// Its id.
        file_id: String,
    },
}

/// Where a document comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum DocumentSource {
    /// Inline bytes.
    Base64 {
        /// Base64 of the bytes.
        data: String,
        /// Their media type.
        media_type: String,
    },
    /// Inline text.
    Text {
        /// The text.
        data: String,
        /// Always `text/plain`.
        media_type: String,
    },
    /// A URL that the model's endpoint fetches.
    Url {
        /// The URL.
        url: String,
    },
    /// An uploaded file.
    File {
        /// Its id.
        file_id: String,
    },
}

//! What a tool answered, in the contract's blocks: text and pictures as they are, what the contract has no block for as
//! a line that says what it was.

use postern_model::content::{Block, DocumentSource, ImageSource};
use rmcp::model::{CallToolResult, ContentBlock, ErrorData, ResourceContents};

use super::ToolResult;
use super::failure::clean;

/// The pictures that a model can be shown.
const PICTURES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// A tool's answer.
pub(super) fn of_result(result: CallToolResult) -> ToolResult {
    let mut content: Vec<Block> = result.content.into_iter().map(block).collect();
    if content.is_empty()
        && let Some(structured) = result.structured_content
    {
        content.push(Block::text(structured.to_string()));
    }
    ToolResult { content, is_error: result.is_error.unwrap_or(false) }
}

/// The server's answer that it did not carry the call out as asked: for the model to read, like a tool's own failure.
pub(super) fn of_error(error: &ErrorData) -> ToolResult {
    let text = format!("The MCP server answered with an error ({}): {}", error.code.0, clean(&error.message));
    ToolResult { content: vec![Block::text(text)], is_error: true }
}

fn block(content: ContentBlock) -> Block {
    match content {
        ContentBlock::Text(text) => Block::text(text.text),
        ContentBlock::Image(image) if PICTURES.contains(&image.mime_type.as_str()) => {
            Block::Image { source: ImageSource::Base64 { data: image.data, media_type: image.mime_type } }
        }
        ContentBlock::Image(image) => left_out("picture", &image.mime_type, image.data.len()),
        ContentBlock::Audio(audio) => left_out("sound", &audio.mime_type, audio.data.len()),
        ContentBlock::Resource(resource) => of_resource(resource.resource),
        ContentBlock::ResourceLink(link) => {
            let description = link.description.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
            Block::text(format!("[resource {} at {}{description}]", link.name, link.uri))
        }
        _ => Block::text("[content of a kind that is not known here]"),
    }
}

fn of_resource(resource: ResourceContents) -> Block {
    match resource {
        ResourceContents::TextResourceContents { text, .. } => Block::text(text),
        ResourceContents::BlobResourceContents { blob, mime_type, .. } => match mime_type.as_deref() {
            Some("application/pdf") => {
                let source = DocumentSource::Base64 { data: blob, media_type: "application/pdf".to_owned() };
                Block::Document { source, title: None, context: None }
            }
            Some(kind) if PICTURES.contains(&kind) => {
                Block::Image { source: ImageSource::Base64 { data: blob, media_type: kind.to_owned() } }
            }
            kind => left_out("file", kind.unwrap_or("unknown type"), blob.len()),
        },
        _ => Block::text("[a resource of a kind that is not known here]"),
    }
}

fn left_out(what: &str, kind: &str, base64_bytes: usize) -> Block {
    Block::text(format!("[a {what} ({}, about {} bytes) that cannot be shown here]", clean(kind), base64_bytes / 4 * 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(result: serde_json::Value) -> ToolResult {
        of_result(serde_json::from_value(result).unwrap())
    }

    #[test]
    fn content_becomes_blocks() {
        let result = read(serde_json::json!({"content": [
            {"type": "text", "text": "a"},
            {"type": "image", "data": "AAAA", "mimeType": "image/png"},
            {"type": "image", "data": "AAAAAAAA", "mimeType": "image/tiff"},
            {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"},
            {"type": "resource", "resource": {"uri": "x:1", "text": "inside"}},
            {"type": "resource", "resource": {"uri": "x:2", "blob": "JVBE", "mimeType": "application/pdf"}},
            {"type": "resource_link", "uri": "x:3", "name": "three"},
        ], "isError": true}));
        assert!(result.is_error);
        let kinds: Vec<&str> = result.content.iter().map(Block::kind).collect();
        assert_eq!(kinds, ["text", "image", "text", "text", "text", "document", "text"]);
        assert_eq!(result.content[2], Block::text("[a picture (image/tiff, about 6 bytes) that cannot be shown here]"));
        assert_eq!(result.content[6], Block::text("[resource three at x:3]"));
    }

    #[test]
    fn structured_content_alone_is_shown_as_json() {
        let result = read(serde_json::json!({"content": [], "structuredContent": {"rows": 2}}));
        assert_eq!(result.content, [Block::text(r#"{"rows":2}"#)]);
    }
}

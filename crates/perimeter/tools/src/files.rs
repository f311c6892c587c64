//! `read`, `write` and `edit`, with the reference toolset's limits and texts. Never opens a path that the policy did not resolve.

use std::fs::File;
use std::io::{self, Read, Write};

use base64::Engine as _;
use serde_json::{Map, Value};

use crate::arguments::{Arguments, ToolError};
use crate::paths::{Opened, PathPolicy, Target};
use crate::python;
use crate::wire::{Block, Source};

const MAX_TEXT_BYTES: u64 = 256 * 1024;
const MAX_IMAGE_BYTES: u64 = 5 * 1024 * 1024 / 4 * 3;
const MAX_PDF_BYTES: u64 = 20 * 1024 * 1024;
const PDF: &str = "application/pdf";

/// Runs `read`.
pub(crate) fn read(policy: &PathPolicy, input: &Map<String, Value>) -> Result<Block, ToolError> {
    let arguments = Arguments::new("read", input, &["file_path", "view_range"])?;
    let path = arguments.text("file_path")?;
    let range = arguments.optional_integers("view_range")?.filter(|range| !range.is_empty());
    let target = policy.resolve(path).map_err(|error| ToolError(format!("read: {error}")))?;
    let range = range.map(|range| LineRange::new(&range)).transpose()?;
    let failed = |error: io::Error| failure("read", path, &error);
    let Opened::Regular { file, size_bytes } = target.open_regular().map_err(failed)? else {
        return Err(not_regular("read", path));
    };
    if let Some(media_type) = media_type(&target) {
        return match range {
            Some(_) => Err(ToolError::new("read: view_range is not supported for image/PDF files")),
            None => read_media(file, path, size_bytes, media_type),
        };
    }
    let bytes = match (&range, size_bytes > MAX_TEXT_BYTES) {
        (None, true) => return Err(too_large_to_read(path, size_bytes)),
        (Some(range), true) => range.read(file, path)?,
        _ => read_all(file, MAX_TEXT_BYTES)
            .map_err(failed)?
            .ok_or_else(|| too_large_to_read(path, MAX_TEXT_BYTES + 1))?,
    };
    let text = String::from_utf8(bytes).map_err(|_| {
        ToolError(format!(
            "read: {path}: not valid UTF-8 text (binary files are only supported for image/PDF extensions)"
        ))
    })?;
    Ok(Block::text(match range {
        Some(range) if size_bytes <= MAX_TEXT_BYTES => range.select(&text),
        _ => text,
    }))
}

/// Runs `write`.
pub(crate) fn write(policy: &PathPolicy, input: &Map<String, Value>) -> Result<Block, ToolError> {
    let arguments = Arguments::new("write", input, &["content", "file_path"])?;
    let (path, content) = (arguments.text("file_path")?, arguments.text("content")?);
    let target = policy.resolve(path).map_err(|error| ToolError(format!("write: {error}")))?;
    policy.writable(&target, "write", path)?;
    rewrite(&target, "write", path, content)?;
    Ok(Block::text(format!("wrote {} bytes to {path}", content.chars().count())))
}

/// Runs `edit`.
pub(crate) fn edit(policy: &PathPolicy, input: &Map<String, Value>) -> Result<Block, ToolError> {
    let arguments = Arguments::new("edit", input, &["file_path", "new_string", "old_string", "replace_all"])?;
    let path = arguments.text("file_path")?;
    let (old, new) = (arguments.text("old_string")?, arguments.text("new_string")?);
    let all = arguments.optional_flag("replace_all")?.unwrap_or(false);
    let target = policy.resolve(path).map_err(|error| ToolError(format!("edit: {error}")))?;
    policy.writable(&target, "edit", path)?;
    let text = read_for_edit(&target, path)?;
    let count = text.matches(old).count();
    let updated = match (count, all) {
        (0, _) => return Err(ToolError(format!("edit: old_string not found in {path}"))),
        (2.., false) => {
            return Err(ToolError(format!("edit: old_string appears {count} times in {path} (must be unique)")));
        }
        (_, true) => text.replace(old, new),
        (_, false) => text.replacen(old, new, 1),
    };
    rewrite(&target, "edit", path, &updated)?;
    Ok(Block::text(format!("edited {path} ({count} replacement(s))")))
}

fn read_for_edit(target: &Target, path: &str) -> Result<String, ToolError> {
    let failed = |error: io::Error| failure("edit", path, &error);
    let Opened::Regular { file, size_bytes } = target.open_regular().map_err(failed)? else {
        return Err(not_regular("edit", path));
    };
    let too_large = |size: u64| {
        ToolError(format!(
            "edit: {path} is {size} bytes, exceeds {MAX_TEXT_BYTES}-byte limit. The edit tool loads the whole file and cannot modify a file this large."
        ))
    };
    if size_bytes > MAX_TEXT_BYTES {
        return Err(too_large(size_bytes));
    }
    let bytes = read_all(file, MAX_TEXT_BYTES).map_err(failed)?.ok_or_else(|| too_large(MAX_TEXT_BYTES + 1))?;
    String::from_utf8(bytes)
        .map_err(|_| ToolError(format!("edit: {path}: not valid UTF-8 text (cannot edit binary files)")))
}

fn rewrite(target: &Target, op: &str, path: &str, content: &str) -> Result<(), ToolError> {
    let failed = |error: io::Error| failure(op, path, &error);
    let mut file = target.create().map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(not_regular(op, path));
    }
    file.write_all(content.as_bytes()).map_err(failed)
}

/// At most `limit` bytes; `None` when the file grew past it after its size was looked at.
fn read_all(file: File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

fn media_type(target: &Target) -> Option<&'static str> {
    let full = target.full();
    let extension = full.extension()?.to_str()?.to_lowercase();
    Some(match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "pdf" => PDF,
        _ => return None,
    })
}

fn read_media(file: File, path: &str, size_bytes: u64, media_type: &str) -> Result<Block, ToolError> {
    let limit = if media_type == PDF { MAX_PDF_BYTES } else { MAX_IMAGE_BYTES };
    let too_large =
        |size: u64| ToolError(format!("read: {path} is {size} bytes, exceeds {limit}-byte limit for image/PDF files."));
    if size_bytes > limit {
        return Err(too_large(size_bytes));
    }
    let bytes =
        read_all(file, limit).map_err(|error| failure("read", path, &error))?.ok_or_else(|| too_large(limit + 1))?;
    let data = base64::engine::general_purpose::STANDARD.encode(bytes);
    let source = Source::Base64 { media_type: media_type.to_owned(), data };
    Ok(if media_type == PDF { Block::Document { source } } else { Block::Image { source } })
}

/// Lines `[start, end]`, counted from 1, both included; an end of 0 or less is the last line.
#[derive(Debug, Clone, Copy)]
struct LineRange {
    start: i64,
    end: i64,
}

impl LineRange {
    fn new(range: &[i64]) -> Result<Self, ToolError> {
        match *range {
            [start, end] => Ok(Self { start, end }),
            _ => Err(ToolError::new("read: view_range must be [start_line, end_line]")),
        }
    }

    /// Lines to leave out, and the number of the last one to take.
    fn bounds(self) -> (u64, u64) {
        (
            u64::try_from(self.start.saturating_sub(1)).unwrap_or(0),
            u64::try_from(self.end).ok().filter(|end| *end > 0).unwrap_or(u64::MAX),
        )
    }

    fn select(self, text: &str) -> String {
        let (skip, last) = self.bounds();
        let lines: Vec<&str> = text
            .split('\n')
            .zip(0u64..)
            .filter(|(_, line)| (skip..last).contains(line))
            .map(|(text, _)| text)
            .collect();
        lines.join("\n")
    }

    /// The same from a large file, in memory bounded by the limit.
    fn read(self, file: File, path: &str) -> Result<Vec<u8>, ToolError> {
        let (skip, last) = self.bounds();
        let (mut line, mut out) = (0u64, Vec::new());
        let mut reader = io::BufReader::with_capacity(64 * 1024, file);
        while line < last && skip < last {
            let chunk = io::BufRead::fill_buf(&mut reader).map_err(|error| failure("read", path, &error))?;
            if chunk.is_empty() {
                break;
            }
            let newline = chunk.iter().position(|byte| *byte == b'\n');
            let end = newline.unwrap_or(chunk.len());
            if line >= skip {
                out.extend_from_slice(&chunk[..end]);
                if newline.is_some() && line + 1 < last {
                    out.push(b'\n');
                }
                if out.len() as u64 > MAX_TEXT_BYTES {
                    return Err(self.too_large(path));
                }
            }
            let used = end + usize::from(newline.is_some());
            line += u64::from(newline.is_some());
            io::BufRead::consume(&mut reader, used);
        }
        Ok(out)
    }

    fn too_large(self, path: &str) -> ToolError {
        let (skip, last) = self.bounds();
        if last - skip == 1 {
            return ToolError(format!(
                "read: line {} of {path} alone exceeds {MAX_TEXT_BYTES}-byte limit. The read tool cannot return part of a line, so view_range cannot narrow this further.",
                skip + 1
            ));
        }
        ToolError(format!(
            "read: view_range [{}, {}] of {path} exceeds {MAX_TEXT_BYTES}-byte limit. Narrow the view_range to read a smaller portion.",
            self.start, self.end
        ))
    }
}

fn too_large_to_read(path: &str, size_bytes: u64) -> ToolError {
    ToolError(format!(
        "read: {path} is {size_bytes} bytes, exceeds {MAX_TEXT_BYTES}-byte limit. Use the view_range parameter to read specific line ranges, e.g. view_range: [1, 500]."
    ))
}

fn not_regular(op: &str, path: &str) -> ToolError {
    ToolError(format!("{op}: {path}: not a regular file"))
}

fn failure(op: &str, path: &str, error: &io::Error) -> ToolError {
    ToolError(format!("{op}: {path}: {}", python::reason(error)))
}

//! The archive that a worker gets: a zip of one top directory. The same files make the same bytes, whenever and in whatever order they came.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use postern_model::Problem;
use postern_model::skill::{MemberPath, SkillName};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Packs these files under a directory of the skill's name.
///
/// # Errors
/// 500; memory takes everything, so there is no other.
pub(super) fn pack(name: &SkillName, files: &BTreeMap<MemberPath, Vec<u8>>) -> Result<Vec<u8>, Problem> {
    written(name, files).map_err(|error| {
        tracing::error!(%error, "a skill could not be packed");
        Problem::internal()
    })
}

fn written(name: &SkillName, files: &BTreeMap<MemberPath, Vec<u8>>) -> Result<Vec<u8>, zip::result::ZipError> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, bytes) in files {
        // A form carries no modes: what says that it is a program is one.
        let mode = if bytes.starts_with(b"#!") { 0o755 } else { 0o644 };
        let options = SimpleFileOptions::DEFAULT
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::DEFAULT)
            .unix_permissions(mode);
        zip.start_file(format!("{name}/{}", path.as_str()), options)?;
        zip.write_all(bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}

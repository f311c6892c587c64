//! What a session was given, as a worker fetches it: files and skills, into files of ours, bounded and with their digests.

use std::io;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use http::header::ACCEPT;
use http::{HeaderValue, Method};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::{ANSWER_LIMIT, Bearer, PATIENCE, Remote, RemoteError, path, request};

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) bytes: u64,
    /// `sha256:` and the digest of its bytes.
    pub(crate) digest: String,
}

/// A skill's version as the server shows it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SkillVersion {
    pub(crate) id: String,
    pub(crate) name: String,
}

impl Remote {
    /// Fetches a file's bytes, of at most `most`, into one of ours.
    pub(crate) async fn file(&self, key: &Bearer, file: &str, to: &Path, most: u64) -> Result<Fetched, RemoteError> {
        self.fetch("fetch a file", key, &path(&["v1", "files", file, "content"], &[]), to, most).await
    }

    /// One version of a skill, by id or `latest`.
    pub(crate) async fn skill_version(
        &self,
        key: &Bearer,
        skill: &str,
        version: &str,
    ) -> Result<SkillVersion, RemoteError> {
        let request = request(Method::GET, &path(&["v1", "skills", skill, "versions", version], &[]), key, None)?;
        self.read_json("read a skill", request, PATIENCE, ANSWER_LIMIT).await
    }

    /// Fetches the archive of a skill's version, of at most `most` bytes, into a file of ours.
    pub(crate) async fn skill_content(
        &self,
        key: &Bearer,
        skill: &str,
        version: &str,
        to: &Path,
        most: u64,
    ) -> Result<Fetched, RemoteError> {
        let path = path(&["v1", "skills", skill, "versions", version, "content"], &[]);
        self.fetch("fetch a skill", key, &path, to, most).await
    }

    async fn fetch(
        &self,
        doing: &'static str,
        key: &Bearer,
        path: &str,
        to: &Path,
        most: u64,
    ) -> Result<Fetched, RemoteError> {
        let mut request = request(Method::GET, path, key, None)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/octet-stream"));
        let mut body = self.send(doing, request, PATIENCE).await?.into_body();
        let disk = |source| RemoteError::Disk { doing, source };
        let mut written = tokio::fs::File::create(to).await.map_err(disk)?;
        let (mut size, mut digest) = (0, Context::new(&SHA256));
        while let Some(bytes) = body.chunk().await.map_err(|source| RemoteError::Unreachable { doing, source })? {
            size += bytes.len() as u64;
            if size > most {
                return Err(RemoteError::Disk { doing, source: io::ErrorKind::FileTooLarge.into() });
            }
            digest.update(&bytes);
            written.write_all(&bytes).await.map_err(disk)?;
        }
        written.flush().await.map_err(disk)?;
        let hex: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Fetched { bytes: size, digest: format!("sha256:{hex}") })
    }
}

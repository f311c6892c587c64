//! Which files and directories of this machine are ours by what the configuration says: what no zone may lend, and what a role that reads the configuration
//! again must not read along with it.

use std::path::{Path, PathBuf};

use postern_policy::deployment::Protection;
use postern_policy::{Deployment, Document, Routes, Zones};

/// Files and directories of ours, by absolute paths, as written and as they really are.
#[derive(Default)]
pub(crate) struct Ours {
    /// Keys, secrets and stores.
    keys: Vec<PathBuf>,
    /// The configuration and the files that its zones and routes name.
    texts: Vec<PathBuf>,
}

impl Ours {
    /// What a configuration whose files lie in `directory` names.
    pub(crate) fn of(
        document: &Document,
        directory: &Path,
        (zones, routes, deployment): (&Zones, &Routes, &Deployment),
    ) -> Self {
        let Deployment { server, web, edge, worker, gateway, custody, audit, .. } = deployment;
        let sources = postern_custody::files(zones).into_iter().chain(postern_custody::route_files(routes));
        let served = match &server.protection {
            Protection::Tls(files) => Some(&files.key),
            Protection::Loopback | Protection::BehindProxy => None,
        };
        let named = [
            server.event_key_file.as_ref(),
            served,
            edge.tls.as_ref().map(|files| &files.key),
            web.search.as_ref().and_then(|search| search.key_file.as_ref()),
            worker.environment_key_file.as_ref(),
            gateway.proxy_credentials_file.as_ref(),
            gateway.tunnel_token_file.as_ref(),
            gateway.tls_dir.as_ref(),
            gateway.identity_key_file.as_ref(),
            custody.dir.as_ref(),
            audit.dir.as_ref(),
        ];
        let keys = sources.chain(named.into_iter().flatten().cloned());
        let texts = document.referenced_files().into_iter().map(|name| directory.join(name));
        let file = Some(PathBuf::from(&document.text().file)).filter(|file| file.is_file());
        Self {
            keys: keys.flat_map(|path| names_of(&path)).collect(),
            texts: texts.chain(file).flat_map(|path| names_of(&path)).collect(),
        }
    }

    /// All of it.
    pub(crate) fn all(&self) -> Vec<PathBuf> {
        self.keys.iter().chain(&self.texts).cloned().collect()
    }

    /// The configuration's files.
    pub(crate) fn texts(&self) -> &[PathBuf] {
        &self.texts
    }
}

/// A path as it is written, made absolute, and as it really is.
pub(crate) fn names_of(path: &Path) -> Vec<PathBuf> {
    let written = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = std::fs::canonicalize(path).ok().filter(|real| *real != written);
    [Some(written), real].into_iter().flatten().collect()
}

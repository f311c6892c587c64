//! Which files each role may open besides the system's own: said here for all of them, in one place, from the configuration that the role was handed.
//! A directory that a role keeps is made before the role confines itself to it.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use postern_confine::Reach;
use postern_gateway::GatewayConfig;
use postern_policy::{Document, Routes, Zones};
use postern_runner::WorkerConfig;

use crate::cli::Place;
use crate::config::{self, Configuration};
use crate::server::ServerConfiguration;

/// The audit log's directory, and nothing else.
pub(crate) fn audit(configuration: &postern_audit::Configuration) -> Reach {
    Reach::new().keeps(made(&configuration.directory))
}

/// The store's directory, and where the files lie that zones and routes name as sources.
pub(crate) fn custody(configuration: &postern_custody::Configuration) -> Reach {
    let reach = Reach::new().keeps(made(&configuration.directory));
    // A document that does not load is custody's to refuse.
    let Ok(document) = Document::from_text(configuration.document.clone()) else { return reach };
    let zones = Zones::load(&document, &configuration.environments).map(|zones| postern_custody::files(&zones));
    let routes = Routes::load(&document).map(|routes| postern_custody::route_files(&routes));
    let files = zones.into_iter().flatten().chain(routes.into_iter().flatten());
    files.flat_map(|file| around(&file, &configuration.directory)).fold(reach, Reach::reads)
}

/// Sessions and the meeting place with the gateway.
pub(crate) fn worker(configuration: &WorkerConfig) -> Reach {
    let perimeter = configuration.data_dir.join("perimeter");
    let reach = Reach::new().keeps(made(&perimeter.join("work"))).keeps(made(&perimeter.join("keeper")));
    configuration.ca_file.iter().fold(reach, Reach::reads)
}

/// The same with the configuration's own files, for a role that reads them again when it is told to.
pub(crate) fn configuration(reach: Reach, place: &Place, configuration: &Configuration) -> Reach {
    let Some(file) = config::file(place.config.as_deref()) else { return reach };
    let directory = file.parent().unwrap_or(Path::new(".")).to_owned();
    let named = configuration.document.referenced_files().into_iter().map(|name| directory.join(name));
    let files = named.chain([file.clone()]).collect::<Vec<_>>();
    files.iter().flat_map(|file| around(file, &place.data_dir)).fold(reach, Reach::reads)
}

/// The inner certificate, a key and a mark of its own, and the meeting place with the worker.
pub(crate) fn gateway(configuration: &GatewayConfig) -> Reach {
    // Where it cannot be made the gateway says so itself.
    let _said_later = postern_gateway::prepare(&configuration.data_dir);
    let perimeter = configuration.data_dir.join("perimeter");
    let reach = Reach::new().keeps(perimeter.join("gateway")).keeps(made(&perimeter.join("keeper")));
    configuration.ca_file.iter().fold(reach.reads(&configuration.tls_dir), Reach::reads)
}

/// The control plane's directory, and the certificates that were named for it.
pub(crate) fn server(configuration: &ServerConfiguration) -> Reach {
    let files = configuration.tls.iter().flat_map(|(certificate, key)| [certificate, key]);
    let edge = configuration.edge.iter().flat_map(|edge| [&edge.certificate, &edge.key]);
    let reach = Reach::new().keeps(made(&configuration.directory));
    let others = [&configuration.model_ca_file, &configuration.ca_file, &configuration.event_key_file];
    files.chain(edge).chain(others.into_iter().flatten()).fold(reach, Reach::reads)
}

/// A file that is replaced by another of its name is found again through its directory, and where links lead through the directory there. A directory that
/// leads to what is kept `apart` is not given: the file alone is.
fn around(file: &Path, apart: &Path) -> Vec<PathBuf> {
    let apart = fs::canonicalize(apart).unwrap_or_else(|_| apart.to_owned());
    let real = fs::canonicalize(file).ok();
    let files = [Some(file.to_owned()), real].into_iter().flatten();
    files
        .map(|file| match file.parent().and_then(|parent| fs::canonicalize(parent).ok()) {
            Some(parent) if !apart.starts_with(&parent) => parent,
            _ => file,
        })
        .collect()
}

fn made(directory: &Path) -> PathBuf {
    // Where it cannot be made the role says so when it opens it.
    let _said_later = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    directory.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_reached_through_its_directory_unless_that_leads_to_the_store() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        let (store, secrets) = (root.join("perimeter/custody"), root.join("secrets"));
        for directory in [&store, &secrets] {
            fs::create_dir_all(directory).unwrap();
        }
        let (beside, apart) = (root.join("token"), secrets.join("token"));
        for file in [&beside, &apart] {
            fs::write(file, "x").unwrap();
        }
        assert_eq!(around(&apart, &store), [secrets.clone(), secrets]);
        assert_eq!(around(&beside, &store), [beside.clone(), beside]);
    }
}

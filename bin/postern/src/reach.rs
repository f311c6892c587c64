//! Which files each role may open besides the system's own: said here for all of them, in one place, from the configuration that the role was handed.
//! A directory that a role keeps is made before the role confines itself to it.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use postern_confine::Reach;
use postern_gateway::GatewayConfig;
use postern_policy::{Document, Routes, Zones};
use postern_runner::WorkerConfig;

#[cfg(test)]
use crate::config;
use crate::config::Configuration;
use crate::edge;
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

/// The same with the configuration's own files, for a role that reads them again when it is told to. A directory in which nothing lies but them is read
/// whole, so that a file is found again when another takes its place; beside anything else, a key above all, each file alone is. Says which directories
/// those are.
pub(crate) fn configuration(reach: Reach, configuration: &Configuration) -> (Reach, Vec<PathBuf>) {
    let texts = configuration.ours.texts();
    let mut shared = Vec::new();
    let mut reached = Vec::new();
    for text in texts {
        match text.parent() {
            Some(directory) if holds_only(directory, texts) => reached.push(directory),
            directory => {
                shared.extend(directory.map(Path::to_owned));
                reached.push(text);
            }
        }
    }
    shared.sort();
    shared.dedup();
    (reached.into_iter().fold(reach, Reach::reads), shared)
}

/// Whether these files are all that lies in a directory and below it. Where links lead is not below it.
fn holds_only(directory: &Path, files: &[PathBuf]) -> bool {
    let mut waiting = vec![directory.to_owned()];
    let mut left = MOST_BESIDE;
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = fs::read_dir(directory) else { return false };
        for entry in entries {
            left -= 1;
            let Some(entry) = entry.ok().filter(|_| left > 0) else { return false };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_symlink() => {}
                Ok(kind) if kind.is_file() && is_one_of(&entry.path(), files) => {}
                Ok(_) | Err(_) => return false,
            }
        }
    }
    true
}

fn is_one_of(file: &Path, files: &[PathBuf]) -> bool {
    fs::canonicalize(file).is_ok_and(|real| files.contains(&real))
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
    let reach = Reach::new().keeps(made(&configuration.directory));
    let others = [&configuration.model_ca_file, &configuration.ca_file, &configuration.event_key_file];
    files.chain(others.into_iter().flatten()).fold(reach, Reach::reads)
}

/// Its certificate and the key of that, each file alone.
pub(crate) fn edge(configuration: &edge::Configuration) -> Reach {
    Reach::new().reads(&configuration.certificate).reads(&configuration.key)
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

/// Entries of a directory of a configuration.
const MOST_BESIDE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process with this reach can read of these files, tried by a thread that confined itself as the worker does.
    fn read_as_worker(reach: &Reach, files: &[PathBuf]) -> Vec<bool> {
        let tried = std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                postern_confine::enter(postern_confine::Role::Worker, reach).unwrap();
                files.iter().map(|file| fs::read(file).is_ok()).collect()
            });
            confined.join()
        });
        tried.unwrap()
    }

    #[test]
    fn a_worker_that_stands_alone_reads_its_configuration_and_no_key_that_lies_beside_or_below_it() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        let (mixed, apart) = (root.join("mixed"), root.join("apart"));
        for directory in [&mixed, &apart] {
            fs::create_dir_all(directory.join("policies")).unwrap();
            let text = "config = 1\n[zone.a]\nenvironment = \"default\"\npolicy_file = \"policies/a.cedar\"\n";
            fs::write(directory.join("policies/a.cedar"), "").unwrap();
            fs::write(directory.join("postern.toml"), text).unwrap();
        }
        fs::create_dir(mixed.join("secrets")).unwrap();
        let keys = [mixed.join("environment.key"), mixed.join("secrets/token")];
        for key in &keys {
            fs::write(key, "x").unwrap();
        }
        let reached = |directory: &Path| {
            let read = config::read_file(&directory.join("postern.toml")).unwrap_or_else(|failure| panic!("{failure}"));
            configuration(Reach::new(), &read)
        };
        let own = |directory: &Path| [directory.join("postern.toml"), directory.join("policies/a.cedar")];

        let (reach, shared) = reached(&mixed);
        assert_eq!(shared, std::slice::from_ref(&mixed));
        assert_eq!(read_as_worker(&reach, &own(&mixed)), [true, true]);
        assert_eq!(read_as_worker(&reach, &keys), [false, false]);

        let (reach, shared) = reached(&apart);
        assert!(shared.is_empty());
        // Another file takes its place, as editors have it.
        fs::write(apart.join("next"), "config = 1\n").unwrap();
        fs::rename(apart.join("next"), apart.join("postern.toml")).unwrap();
        assert_eq!(read_as_worker(&reach, &own(&apart)), [true, true]);
        assert_eq!(read_as_worker(&reach, &keys), [false, false]);
    }

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

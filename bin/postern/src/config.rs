//! The configuration file, read whole: every error at once with line and column, and nothing started before it is clean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use postern_policy::{ConfigError, Document, Endpoint, Zones};

use crate::cli::Place;
use crate::failure::{Failure, Or};

const DEFAULT_FILE: &str = "postern.toml";
const DEFAULT_MODEL_URL: &str = "https://api.anthropic.com";
/// The local name of the environment that `up` makes.
pub(crate) const DEFAULT_ENVIRONMENT: &str = "default";
/// Stands for an environment's id while only the text of the configuration is judged.
const ANY_ENVIRONMENT: &str = "env_checked";

/// What the file says, checked.
pub(crate) struct Configuration {
    /// The document with the files it refers to, for the roles that parse it again.
    pub(crate) document: Document,
    /// The model endpoint.
    pub(crate) model: Model,
    /// What the operator should know, one line each.
    pub(crate) warnings: Vec<String>,
    /// Whether any zone is written.
    pub(crate) has_zones: bool,
}

/// The `[model]` section.
pub(crate) struct Model {
    /// Where the Messages API is.
    pub(crate) endpoint: Endpoint,
    /// Trusted instead of nothing besides the system's list: a further CA file.
    pub(crate) ca_file: Option<PathBuf>,
    /// The model that `run` uses.
    pub(crate) default: Option<String>,
}

/// Reads the file that the flags name, or `./postern.toml` when it exists, or nothing.
///
/// # Errors
/// Every error of the file, one line each.
pub(crate) fn read(place: &Place) -> Result<Configuration, Failure> {
    let path = place.config.clone().or_else(|| Path::new(DEFAULT_FILE).exists().then(|| DEFAULT_FILE.into()));
    match path {
        Some(path) => read_file(&path),
        None => check(Document::empty(), Path::new(".")),
    }
}

/// Reads and checks one file.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_file(path: &Path) -> Result<Configuration, Failure> {
    let text = std::fs::read_to_string(path).or_misused(&format!("read {}", path.display()))?;
    let mut document = Document::parse(&path.display().to_string(), &text).map_err(all_errors)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    for name in document.referenced_files() {
        // A file that cannot be read is an error at the line that names it: the loader finds it missing.
        if let Ok(text) = std::fs::read_to_string(directory.join(&name)) {
            document.attach(&name, &text);
        }
    }
    check(document, directory)
}

fn check(document: Document, directory: &Path) -> Result<Configuration, Failure> {
    let (model, has_zones, mut errors) = sections(&document, directory);
    let names = BTreeMap::from([(DEFAULT_ENVIRONMENT.to_owned(), ANY_ENVIRONMENT.to_owned())]);
    let warnings = match Zones::load(&document, &names) {
        Ok(zones) => zones.warnings().iter().map(ToString::to_string).collect(),
        Err(more) => {
            errors.extend(more);
            vec![]
        }
    };
    match model {
        Some(model) if errors.is_empty() => Ok(Configuration { document, model, warnings, has_zones }),
        _ => Err(all_errors(errors)),
    }
}

/// The sections that are not zones.
fn sections(document: &Document, directory: &Path) -> (Option<Model>, bool, Vec<ConfigError>) {
    let reader = document.reader();
    let mut root = reader.root();
    root.leave("zone");
    root.not_in_this_build(&["server", "worker", "edge", "gateway", "custody", "audit"]);
    let has_zones = root.has("zone");
    let model = model(&mut root, directory);
    drop(root);
    (model, has_zones, reader.finish())
}

fn model(root: &mut postern_policy::document::Table<'_>, directory: &Path) -> Option<Model> {
    let Some(mut section) = root.table("model") else {
        return Some(Model { endpoint: DEFAULT_MODEL_URL.parse().ok()?, ca_file: None, default: None });
    };
    let endpoint = match section.parsed("url") {
        Some(url) => Some(url.value),
        None if section.has("url") => None,
        None => DEFAULT_MODEL_URL.parse().ok(),
    };
    let ca_file = section.string("ca_file").map(|file| directory.join(file.value));
    let default = section.string("default").map(|name| name.value.to_owned());
    Some(Model { endpoint: endpoint?, ca_file, default })
}

/// Every error of a configuration as one failure.
pub(crate) fn all_errors(mut errors: Vec<ConfigError>) -> Failure {
    errors.sort_by_key(|error| (error.line, error.column));
    errors.dedup_by(|one, other| one.to_string() == other.to_string());
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    Failure::Misused(format!("the configuration is not usable; nothing was started:\n{}", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(text: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        std::fs::write(&path, text).unwrap();
        read_file(&path).err().map(|failure| failure.to_string()).unwrap_or_default()
    }

    #[test]
    fn an_empty_configuration_is_the_defaults() {
        let configuration = check(Document::empty(), Path::new(".")).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(configuration.model.endpoint.to_string(), DEFAULT_MODEL_URL);
        assert!(!configuration.has_zones);
    }

    #[test]
    fn errors_of_all_sections_come_together_in_the_order_of_the_file() {
        let errors = errors_of("config = 1\nsurprise = 1\n[model]\nurl = \"gopher://x\"\n[zone.a]\nenvironment = 7\n");
        let lines: Vec<_> =
            ["postern.toml:2:", "postern.toml:4:", "postern.toml:6:"].iter().map(|at| errors.find(at)).collect();
        assert!(lines.iter().all(Option::is_some) && lines.is_sorted(), "{errors}");
    }

    #[test]
    fn a_section_this_build_cannot_enforce_is_refused_at_its_line() {
        assert!(errors_of("config = 1\n[gateway]\nserver = \"x\"\n").contains("postern.toml:2:"));
    }
}

//! The configuration file, read whole: every error at once with line and column, and nothing started before it is clean.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use postern_model::agent::ContextSettings;
use postern_model::money::{PerMillion, Price};
use postern_policy::{ConfigError, Deployment, Document, Endpoint, Routes, Zones, deployment};

use crate::cli::Place;
use crate::data::Data;
use crate::failure::{Failure, Or};
use crate::ours::Ours;

/// More than any model's window.
const MOST_TOKENS: i64 = 1_000_000_000;
const DEFAULT_FILE: &str = "postern.toml";
const DEFAULT_MODEL_URL: &str = "https://api.anthropic.com";
/// The local name of the environment that `up` makes.
pub(crate) const DEFAULT_ENVIRONMENT: &str = "default";
/// Stands for an environment's id while only the text of the configuration is judged.
pub(crate) const ANY_ENVIRONMENT: &str = "env_checked";

/// What the file says, checked.
pub(crate) struct Configuration {
    /// The document with the files it refers to, for the roles that parse it again.
    pub(crate) document: Document,
    /// The model endpoint.
    pub(crate) model: Model,
    /// Files of ours that it names, and its own.
    pub(crate) ours: Ours,
    /// What the operator should know, one line each.
    pub(crate) warnings: Vec<String>,
    /// Whether any zone is written.
    pub(crate) has_zones: bool,
    /// The zones, with an id that stands for the environment `default`.
    pub(crate) zones: Zones,
    /// The gateway's routes.
    pub(crate) routes: Routes,
    /// `[server]`.
    pub(crate) server: deployment::Server,
    /// `[web]`.
    pub(crate) web: deployment::Web,
    /// `[edge]`.
    pub(crate) edge: deployment::Edge,
    /// `[worker]`.
    pub(crate) worker: deployment::Worker,
    /// `[gateway]`, without its routes.
    pub(crate) gateway: deployment::Gateway,
    /// `[custody]`.
    custody: deployment::Custody,
    /// `[audit]`.
    audit: deployment::Audit,
}

impl Configuration {
    /// Where custody keeps its store: for the roles over a data directory, and for each command that speaks of the same store.
    pub(crate) fn custody_dir(&self, data_dir: &Path) -> PathBuf {
        self.custody.dir.clone().unwrap_or_else(|| data_dir.join("perimeter/custody"))
    }

    /// Where the audit log lies, for the same.
    pub(crate) fn audit_dir(&self, data_dir: &Path) -> PathBuf {
        self.audit.dir.clone().unwrap_or_else(|| data_dir.join("perimeter/audit"))
    }
}

/// The `[model]` section.
pub(crate) struct Model {
    /// Where the Messages API is.
    pub(crate) endpoint: Endpoint,
    /// Trusted instead of nothing besides the system's list: a further CA file.
    pub(crate) ca_file: Option<PathBuf>,
    /// The model that `run` uses.
    pub(crate) default: Option<String>,
    /// The model that judges calls whose policy is `auto`.
    pub(crate) judge: Option<String>,
    /// The model that grades outcomes.
    pub(crate) grader: Option<String>,
    /// The models that take system text in mid-conversation, by the names that agents call them.
    pub(crate) system_messages: BTreeSet<String>,
    /// What the tokens of models cost, by their names.
    pub(crate) prices: BTreeMap<String, Price>,
    /// When conversations are shortened.
    pub(crate) context: ContextSettings,
}

/// Reads the file that the flags name, or `./postern.toml` when it exists, or nothing.
///
/// # Errors
/// Every error of the file, one line each.
pub(crate) fn read(place: &Place) -> Result<Configuration, Failure> {
    read_optional(place.config.as_deref())
}

/// The same for commands without a data directory.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_optional(given: Option<&Path>) -> Result<Configuration, Failure> {
    match file(given) {
        Some(path) => read_file(&path),
        None => check(Document::empty(), Path::new(".")),
    }
}

/// Where custody keeps the store that a command is about.
///
/// # Errors
/// The configuration or the data directory is not usable.
pub(crate) fn custody_of(place: &Place) -> Result<PathBuf, Failure> {
    let configuration = read(place)?;
    Ok(configuration.custody_dir(Data::open(&place.data_dir)?.root()))
}

/// The file that is read: the one that is given, or `./postern.toml` when it exists.
pub(crate) fn file(given: Option<&Path>) -> Option<PathBuf> {
    given.map(Path::to_owned).or_else(|| Path::new(DEFAULT_FILE).exists().then(|| DEFAULT_FILE.into()))
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
    let mut errors = Vec::new();
    let (model, has_zones) = collect(sections(&document, directory), &mut errors).unwrap_or((None, false));
    let names = BTreeMap::from([(DEFAULT_ENVIRONMENT.to_owned(), ANY_ENVIRONMENT.to_owned())]);
    let zones = collect(Zones::load(&document, &names), &mut errors);
    let routes = collect(Routes::load(&document), &mut errors);
    let deployment = collect(Deployment::load(&document, directory), &mut errors);
    let (Some(model), Some(zones), Some(routes), Some(deployment)) = (model, zones, routes, deployment) else {
        return Err(all_errors(errors));
    };
    let ours = Ours::of(&document, directory, (&zones, &routes, &deployment));
    let lent = Zones::lent_of(&document, &names, &ours.all());
    if !lent.is_empty() {
        return Err(all_errors(lent));
    }
    let warnings = zones.warnings().iter().chain(routes.warnings()).map(ToString::to_string).collect();
    let Deployment { server, web, edge, worker, gateway, custody, audit } = deployment;
    Ok(Configuration {
        document,
        model,
        ours,
        warnings,
        has_zones,
        zones,
        routes,
        server,
        web,
        edge,
        worker,
        gateway,
        custody,
        audit,
    })
}

fn collect<T>(loaded: Result<T, Vec<ConfigError>>, errors: &mut Vec<ConfigError>) -> Option<T> {
    loaded.map_err(|more| errors.extend(more)).ok()
}

/// The model's section, whether there are zones, and every key at the top that no section has.
fn sections(document: &Document, directory: &Path) -> Result<(Option<Model>, bool), Vec<ConfigError>> {
    let reader = document.reader();
    let mut root = reader.root();
    for read_elsewhere in ["zone", "server", "web", "worker", "edge", "gateway", "custody", "audit"] {
        root.leave(read_elsewhere);
    }
    let has_zones = root.has("zone");
    let model = model(&mut root, directory);
    drop(root);
    let errors = reader.finish();
    if errors.is_empty() { Ok((model, has_zones)) } else { Err(errors) }
}

fn model(root: &mut postern_policy::document::Table<'_>, directory: &Path) -> Option<Model> {
    let Some(mut section) = root.table("model") else {
        return Some(Model {
            endpoint: DEFAULT_MODEL_URL.parse().ok()?,
            ca_file: None,
            default: None,
            judge: None,
            grader: None,
            system_messages: BTreeSet::new(),
            prices: BTreeMap::new(),
            context: ContextSettings::default(),
        });
    };
    let endpoint = match section.parsed("url") {
        Some(url) => Some(url.value),
        None if section.has("url") => None,
        None => DEFAULT_MODEL_URL.parse().ok(),
    };
    let ca_file = section.string("ca_file").map(|file| directory.join(file.value));
    let default = section.string("default").map(|name| name.value.to_owned());
    let judge = section.string("judge").map(|name| name.value.to_owned());
    let grader = section.string("grader").map(|name| name.value.to_owned());
    let named = section.strings("system_messages").into_iter().flatten().map(|name| name.value.to_owned());
    let system_messages = named.collect();
    let prices = prices(&mut section);
    let context = context(&mut section);
    Some(Model { endpoint: endpoint?, ca_file, default, judge, grader, system_messages, prices, context })
}

/// `[model.price.NAME]`: dollars for a million tokens, as texts, since a float would round them.
fn prices(section: &mut postern_policy::document::Table<'_>) -> BTreeMap<String, Price> {
    let mut prices = BTreeMap::new();
    for (name, mut table) in section.named_tables("price") {
        let mut each = |key| table.parsed::<PerMillion>(key).map(|price| price.value.0);
        let (input, output) = (each("input"), each("output"));
        let (cache_write, cache_read) = (each("cache_write"), each("cache_read"));
        let (input, output) = (table.required("input", input), table.required("output", output));
        if let (Some(input), Some(output)) = (input, output) {
            let (cache_write, cache_read) = (cache_write.unwrap_or(input), cache_read.unwrap_or(input));
            prices.insert(name.value.to_owned(), Price { input, output, cache_write, cache_read });
        }
    }
    prices
}

fn context(section: &mut postern_policy::document::Table<'_>) -> ContextSettings {
    let mut tokens = |key| section.bounded(key, 0..=MOST_TOKENS).and_then(|item| u64::try_from(item.value).ok());
    let (clear_above_tokens, compact_above_tokens) = (tokens("clear_above_tokens"), tokens("compact_above_tokens"));
    let keep = section.bounded("keep_tool_results", 0..=10_000);
    let keep_tool_results = keep.and_then(|item| u32::try_from(item.value).ok());
    ContextSettings { clear_above_tokens, keep_tool_results, compact_above_tokens }
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
    fn the_model_s_section_says_when_conversations_are_shortened() {
        let document =
            Document::parse("t", "config = 1\n[model]\ncompact_above_tokens = 6000\nclear_above_tokens = 0\n");
        let configuration =
            check(document.unwrap_or_else(|e| panic!("{e:?}")), Path::new(".")).unwrap_or_else(|e| panic!("{e}"));
        let expected =
            ContextSettings { clear_above_tokens: Some(0), keep_tool_results: None, compact_above_tokens: Some(6000) };
        assert_eq!(configuration.model.context, expected);
        assert!(errors_of("config = 1\n[model]\nkeep_tool_results = -1\n").contains("postern.toml:3:"));
    }

    #[test]
    fn errors_of_all_sections_come_together_in_the_order_of_the_file() {
        let priced = "config = 1\n[model.price.\"a-1\"]\ninput = \"3\"\noutput = \"15.00\"\ncache_read = \"0.3\"\n";
        let document = Document::parse("t", priced).unwrap();
        let prices = check(document, Path::new(".")).unwrap().model.prices;
        assert_eq!(prices["a-1"].cache_write, prices["a-1"].input, "written to the cache costs as input unless said");
        assert!(prices["a-1"].cache_read < prices["a-1"].input);
        for wrong in [
            "input = \"3\"",
            "input = 3.0\noutput = \"1\"",
            "input = \"3\"\noutput = \"x\"",
            "input = \"3\"\noutput = \"1\"\nmore = 1",
        ] {
            assert!(!errors_of(&format!("config = 1\n[model.price.m]\n{wrong}\n")).is_empty(), "{wrong}");
        }
        let errors = errors_of("config = 1\nsurprise = 1\n[model]\nurl = \"gopher://x\"\n[zone.a]\nenvironment = 7\n");
        let lines: Vec<_> =
            ["postern.toml:2:", "postern.toml:4:", "postern.toml:6:"].iter().map(|at| errors.find(at)).collect();
        assert!(lines.iter().all(Option::is_some) && lines.is_sorted(), "{errors}");
    }

    #[test]
    fn what_this_build_cannot_enforce_is_refused_at_its_line() {
        let errors = errors_of("config = 1\n[server]\ndatabase = \"postgres://\"\n[zone.a]\nask = []\n");
        assert!(errors.contains("postern.toml:3:1: not in this build: database"), "{errors}");
        assert!(errors.contains("postern.toml:5:1: not in this build: ask"), "{errors}");
    }

    #[test]
    fn nothing_of_ours_is_lent_by_any_zone() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().canonicalize().unwrap();
        for made in ["keys/below", "tls", "data", "policies"] {
            std::fs::create_dir_all(directory.join(made)).unwrap();
        }
        for made in ["keys/token", "keys/environment.key", "policies/a.cedar", "tunnel.token"] {
            std::fs::write(directory.join(made), "").unwrap();
        }
        std::os::unix::fs::symlink(directory.join("keys"), directory.join("linked")).unwrap();
        let refused = |lends: &str| {
            let text = format!(
                "config = 1\n[worker]\nenvironment_key_file = \"linked/environment.key\"\n[gateway]\ntls_dir = \"tls\"\ntunnel_token_file = \"tunnel.token\"\n[zone.a]\nenvironment = \"default\"\npolicy_file = \"policies/a.cedar\"\n[[zone.a.credential]]\nname = \"t\"\nsource = \"file:{0}/keys/token\"\ninject = [{{ header = \"x\" }}]\n[zone.a.sandbox]\n{lends}\n",
                directory.display()
            );
            let path = directory.join("postern.toml");
            std::fs::write(&path, text).unwrap();
            read_file(&path).err().map(|failure| failure.to_string())
        };
        let mount =
            |below: &str| format!("mounts = [{{ host = \"{}\", at = \"/data\" }}]", directory.join(below).display());
        assert_eq!(refused(&mount("data")), None);
        for below in ["", "postern.toml", "keys", "keys/token", "tls", "tls/leaf.key", "tunnel.token", "policies"] {
            let said = refused(&mount(below)).unwrap_or_else(|| panic!("{below} is lent"));
            assert!(said.contains("postern.toml:7:") && said.contains("is never lent"), "{below}: {said}");
        }
        let system = format!("system = {{ image = \"{}\" }}", directory.join("keys").display());
        assert!(refused(&system).is_some_and(|said| said.contains("is never lent")));
    }

    #[test]
    fn errors_of_routes_and_roles_stand_beside_those_of_zones() {
        let errors = errors_of(
            "config = 1\n[gateway]\nserver = \"http://far.example\"\n[[gateway.route]]\nhost = \"Wiki\"\n[zone.a]\nenvironment = 7\n",
        );
        for place in ["postern.toml:3:10", "postern.toml:5:8", "postern.toml:7:15"] {
            assert!(errors.contains(place), "{place} in {errors}");
        }
    }

    #[test]
    fn the_sections_of_the_roles_are_read_and_their_files_lie_beside_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        let text = "config = 1\n[gateway]\ntls_dir = \"tls\"\n[[gateway.route]]\nhost = \"wiki\"\nupstream = \"https://wiki.example/mcp\"\nca_file = \"ca.pem\"\n[[zone.a.mcp]]\nserver = \"other\"\ntools = [\"*\"]\n[zone.a]\nenvironment = \"default\"\n";
        std::fs::write(directory.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        std::fs::write(&path, text).unwrap();
        let configuration = read_file(&path).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(configuration.gateway.tls_dir, Some(directory.path().join("tls")));
        assert!(configuration.routes.by_host_label("wiki").unwrap().ca_pem.is_some());
        assert!(configuration.warnings.iter().any(|line| line.contains("no [[gateway.route]]")));
    }
}

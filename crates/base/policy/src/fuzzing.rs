//! What policy's readers make of any text, as plain functions: the fuzz targets and the tests over their corpora call
//! them. They panic where a promise is broken.

mod places;

pub use places::{json as json_places, pairs as pair_places, template as path_places};

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value};

use crate::canonical::canonical_json;
use crate::web::{LONGEST_URL, WebUrl, urls_in};
use crate::{
    CanonicalPath, ConfigError, Deployment, Document, Host, HostPattern, McpCall, PathGlob, Routes, Zone, Zones,
    normalise_mcp_url,
};

/// A path that is taken is its own canonical form, and no server that decodes, folds or drops what servers do is led out
/// of the prefix that a rule names.
///
/// # Panics
/// When one of these does not hold.
pub fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _refused = text.parse::<PathGlob>();
    let Ok(path) = text.parse::<CanonicalPath>() else { return };
    assert_eq!(path.as_str().parse::<CanonicalPath>().as_ref(), Ok(&path));
    assert!(path.as_str().bytes().all(|byte| byte.is_ascii_graphic()) && !path.as_str().contains(['?', '#', '\\']));
    let below: PathGlob = "/v1/**".parse().expect("a glob of ours");
    for decodings in 0..=3 {
        let reading = some_servers_reading(path.as_str(), decodings);
        let within = reading == "/v1" || reading.starts_with("/v1/");
        assert!(within || !below.covers(&path), "{path} is read as {reading}");
    }
}

/// A URL that is taken is its own canonical form, leads by name over https, and is found in a text that shows it; a reference leads to another host only where
/// it names one.
///
/// # Panics
/// When one of these does not hold.
pub fn web_url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let base: WebUrl = "https://base.example/a/b?c".parse().expect("a URL of ours");
    if let Ok(joined) = base.join(text) {
        canonical(&joined);
        let names_one = text.trim().starts_with("//") || text.contains("://");
        assert!(names_one || joined.host() == base.host(), "{text:?} leads to {joined}");
    }
    let Ok(url) = text.parse::<WebUrl>() else { return };
    canonical(&url);
    assert!(urls_in(&url.to_string()).contains(&url), "{url} is not found where it stands alone");
}

fn canonical(url: &WebUrl) {
    let written = url.to_string();
    assert_eq!(written.parse::<WebUrl>().as_ref(), Ok(url));
    assert!(written.len() <= LONGEST_URL && written.starts_with("https://") && url.host().name().is_some());
    assert!(written.bytes().all(|byte| byte.is_ascii_graphic()) && !written.contains(['#', '\\']));
    let segments = url.path().split('/').map(|segment| segment.to_ascii_lowercase().replace("%2e", "."));
    assert!(!segments.into_iter().any(|segment| segment == "." || segment == ".."), "{url} climbs");
}

/// Every URL that a text shows stands in it, by its host and by its length.
///
/// # Panics
/// When one does not.
pub fn shown_urls(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let found = urls_in(&text);
    found.iter().for_each(canonical);
    let marks = text.replace("\\/", "/").matches("://").count();
    assert!(found.len() <= marks * 3, "{} URLs of {marks} marks", found.len());
    let plain = text.to_ascii_lowercase().replace("\\/", "/");
    for url in found.iter().filter(|_| text.is_ascii()) {
        let host = url.host().name().expect("it leads by name");
        assert!(plain.contains(&format!("://{host}")), "{url} is nowhere in {text:?}");
    }
}

/// What some server makes of a path: decodes several times, ends it at `?` or `#`, takes `\` for `/`, drops path
/// parameters, folds dots.
fn some_servers_reading(path: &str, decodings: usize) -> String {
    let mut text = path.to_owned();
    for _ in 0..decodings {
        text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
    }
    let mut segments: Vec<&str> = Vec::new();
    let text = text.split(['?', '#']).next().unwrap_or(&text).replace('\\', "/");
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or(segment) {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    format!("/{}", segments.join("/"))
}

/// A host that is taken is its own canonical form in ASCII, whether name or address, and a pattern covers no address.
///
/// # Panics
/// When one of these does not hold.
pub fn host(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _refused = normalise_mcp_url(text);
    if let Ok(pattern) = text.parse::<HostPattern>() {
        assert_eq!(pattern.to_string().parse::<HostPattern>().as_ref(), Ok(&pattern));
    }
    let Ok(host) = text.parse::<Host>() else { return };
    let shown = host.to_string();
    assert_eq!(shown.parse::<Host>().as_ref(), Ok(&host));
    assert!(shown.is_ascii() && !shown.ends_with('.') && shown == shown.to_ascii_lowercase());
    assert_ne!(host.name().is_some(), host.address().is_some());
    if let Some(name) = host.name() {
        assert!(name.parse::<std::net::IpAddr>().is_err(), "{name} is an address to some");
        assert!(name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len())));
    }
    assert!(host.address().is_none_or(|address| address == address.to_canonical()));
}

/// A configuration either loads, the same each time, or every error has its place in it.
///
/// # Panics
/// When it does neither.
pub fn document(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let document = match Document::parse("postern.toml", text) {
        Ok(document) => document,
        Err(errors) => return placed(text, &errors),
    };
    let environments = BTreeMap::from([("default".to_owned(), "env_one".to_owned())]);
    match Zones::load(&document, &environments) {
        Ok(zones) => {
            let again = Zones::load(&document, &environments).expect("it loaded before");
            for zone in zones.iter() {
                assert_eq!(
                    again.named(zone.name()).map(|again| again.digest().to_owned()).as_deref(),
                    Some(zone.digest())
                );
            }
        }
        Err(errors) => placed(text, &errors),
    }
    if let Err(errors) = Routes::load(&document) {
        placed(text, &errors);
    }
    if let Err(errors) = Deployment::load(&document, Path::new("/etc/postern")) {
        placed(text, &errors);
    }
}

fn placed(text: &str, errors: &[ConfigError]) {
    assert!(!errors.is_empty(), "a refusal says why");
    let lines: Vec<&str> = text.split('\n').collect();
    for error in errors {
        let line = lines.get(error.line.wrapping_sub(1));
        let columns = line.map_or(0, |line| line.chars().count()) + 1;
        assert!((1..=columns).contains(&error.column), "{error}");
        assert!(!error.message.is_empty());
    }
}

/// A call is allowed only where a check of our own, written against the same rule in other words, allows it; the same
/// arguments in canonical form are decided alike.
///
/// # Panics
/// When one of these does not hold.
pub fn arguments(bytes: &[u8]) {
    let Ok(Value::Object(arguments)) = serde_json::from_slice(bytes) else { return };
    let allowed = allows(&arguments);
    if allowed {
        let path = arguments.get("path").and_then(Value::as_str).expect("a path must be given as text");
        assert!(path.starts_with("drafts/") && !path.split('/').any(|part| part == ".." || part == "."), "{path}");
        let size = arguments.get("size").and_then(Value::as_f64).expect("a size must be given as a number");
        assert!((1.0..=100.0).contains(&size), "{size}");
        assert!(arguments.get("options").is_none_or(|options| options.get("force").is_none()));
        assert!(arguments.keys().filter(|key| key.eq_ignore_ascii_case("path")).count() == 1);
    }
    let canonical = canonical_json(&Value::Object(arguments));
    let Ok(Value::Object(again)) = serde_json::from_str(&canonical) else { panic!("not JSON: {canonical}") };
    assert_eq!(canonical_json(&Value::Object(again.clone())), canonical);
    assert_eq!(allows(&again), allowed, "{canonical}");
}

fn allows(arguments: &Map<String, Value>) -> bool {
    let call = McpCall { route: "wiki", method: "tools/call", tool: Some("write"), arguments: Some(arguments) };
    ZONE.mcp(&call).is_ok()
}

static ZONE: LazyLock<Arc<Zone>> = LazyLock::new(|| {
    let text = r#"config = 1
[zone.docs]
environment = "default"
[[zone.docs.mcp]]
server = "wiki"
tools = ["write"]
arguments = { path = { glob = "drafts/**" }, size = { range = [1, 100] }, "/options/force" = { absent = true } }
"#;
    let document = Document::parse("postern.toml", text).expect("a document of ours");
    let environments = BTreeMap::from([("default".to_owned(), "env_one".to_owned())]);
    let zones = Zones::load(&document, &environments).expect("a zone of ours");
    zones.named("docs").expect("it is there")
});

use super::*;
use crate::credential::{BasicPart, Location};
use crate::document::Document;
use crate::foreign::ForeignCredential;
use crate::permit::Target;
use crate::request::{Found, FoundValue, Issued, Place, SessionFacts, Transport};
use crate::{ConfigError, Host, Override, Port, Scheme, Upgrade};
use std::collections::BTreeMap;
use std::sync::Arc;

mod decisions;
mod examples;
mod explaining;
mod in_force;
mod loading;
mod mcp;
mod mcp_properties;
mod properties;
mod repositories;
mod sandbox;
mod shadow;

/// The example of the documentation, with what this build enforces.
const LEDGER: &str = r#"config = 1

[zone.ledger]
environment = "default"
agents = ["*"]
mode = "enforce"

[zone.ledger.sandbox]
memory = "2GiB"
cpus = 1.0
processes = 256
disk = "4GiB"
mounts = [{ host = "/srv/data", at = "/data", access = "read" }]
require = ["seccomp", "landlock", "netns"]

[[zone.ledger.credential]]
name = "ledger-api"
source = "store:ledger-api"
env = "LEDGER_API_KEY"
inject = [{ header = "authorization" }, { basic = "password" }]

[[zone.ledger.egress]]
host = "api.ledger.internal"
scheme = "https"
ports = [443]
methods = ["GET", "POST"]
paths = ["/v1/**"]
credential = "ledger-api"
foreign_credentials = "refuse"
connect = "10.3.0.7:8443"
addresses = ["10.3.0.0/24"]

[[zone.ledger.egress]]
host = "*.pypi.example"
methods = ["GET"]

[[zone.ledger.egress]]
host = "plain.example"
scheme = "http"

[[zone.ledger.egress]]
host = "api.ledger.internal"
paths = ["/public/**"]
"#;

fn names() -> BTreeMap<String, String> {
    BTreeMap::from([("default".to_owned(), "env_1".to_owned())])
}

fn load(text: &str) -> Result<Zones, Vec<ConfigError>> {
    Zones::load(&Document::parse("postern.toml", text)?, &names())
}

fn zone(text: &str) -> Arc<Zone> {
    let zones = load(text).unwrap_or_else(|errors| panic!("{}", listed(&errors)));
    zones.iter().next().map(Arc::clone).unwrap()
}

fn listed(errors: &[ConfigError]) -> String {
    errors.iter().map(|error| format!("{error}\n")).collect()
}

fn with_policy(policy: &str) -> Result<Arc<Zone>, Vec<ConfigError>> {
    let text = LEDGER.replace("mode = \"enforce\"", "policy_file = \"ledger.cedar\"");
    let mut document = Document::parse("postern.toml", &text)?;
    assert_eq!(document.referenced_files(), ["ledger.cedar"]);
    document.attach("ledger.cedar", policy);
    Zones::load(&document, &names()).map(|zones| zones.named("ledger").unwrap())
}

fn facts(agent: &str) -> SessionFacts {
    SessionFacts {
        environment_id: "env_1".to_owned(),
        agent_id: agent.to_owned(),
        agent_version: 2,
        definition_digest: format!("sha256:{}", "a".repeat(64)),
    }
}

/// `METHOD URL`, with nothing else in it.
fn request(line: &str) -> Request {
    let (method, url) = line.split_once(' ').unwrap();
    let (scheme, rest) = url.split_once("://").unwrap();
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = authority
        .split_once(':')
        .map_or((authority, scheme.default_port()), |(host, port)| (host, Port::new(port.parse().unwrap()).unwrap()));
    Request {
        host: host.parse().unwrap(),
        port,
        scheme,
        method: method.parse().unwrap(),
        path: path.parse().unwrap(),
        query: None,
        upgrade: Upgrade::None,
        credentials_present: Vec::new(),
        foreign: Vec::new(),
        overrides: Vec::new(),
    }
}

fn holding(line: &str, place: Place) -> Request {
    Request { credentials_present: vec![placeholder(Issued::ThisSession, place)], ..request(line) }
}

fn placeholder(issued: Issued, place: Place) -> Found {
    Found { credential: CredentialName::new("ledger-api"), value: FoundValue::Placeholder(issued), place }
}

fn authorization() -> Place {
    Place::At(Location::Header("authorization".to_owned()))
}

//! The zone under test: the deployed one, with canaries in the place of its secrets, hosts of our own beside its hosts, and limits that cost little
//! to reach. Its mounts, its required controls, its policies and its rules stay as they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use postern_policy::document::DocumentText;
use toml::{Table, Value};

use crate::toml_text::inline;

/// The host that has the canary credential.
pub(crate) const API_HOST: &str = "api.postern-verify.internal";
/// A host that a rule allows without a credential.
pub(crate) const OTHER_HOST: &str = "other.postern-verify.internal";
/// The host that the client certificate is presented to.
pub(crate) const CERTIFIED_HOST: &str = "certified.postern-verify.internal";
/// A host that wants a client certificate which no rule presents there.
pub(crate) const BARE_HOST: &str = "bare.postern-verify.internal";
/// A host that another one answers for, with a certificate of an authority that its rule does not name.
pub(crate) const IMPOSTOR_HOST: &str = "impostor.postern-verify.internal";
/// The host whose credential comes from the vaults of a session.
pub(crate) const VAULT_HOST: &str = "vault.postern-verify.internal";
/// The host of the repositories that the sessions were given.
pub(crate) const GIT_HOST: &str = "git.postern-verify.internal";
/// Names that lead elsewhere from one question to the next; a rule allows them one address of this machine.
const CHANGING_HOSTS: &str = "*.changing.postern-verify.internal";
/// What they end with.
pub(crate) const CHANGING: &str = ".changing.postern-verify.internal";
/// A name that a rule allows and that leads to this machine's loopback, which no rule names.
pub(crate) const REBOUND_HOST: &str = "localhost";
/// The variable that shows the canary's placeholder.
pub(crate) const VARIABLE: &str = "POSTERN_VERIFY_KEY";
/// The variable of a vault, and the one that shows its placeholder.
pub(crate) const VAULT_VARIABLE: &str = "POSTERN_VERIFY_VAULT";
/// A variable that a rule sends, and that the session's vault has nothing for but a refresh token.
pub(crate) const REFRESH_VARIABLE: &str = "POSTERN_VERIFY_REFRESH";
/// The host that it would go to.
pub(crate) const REFRESH_HOST: &str = "refresh.postern-verify.internal";
/// The environment that the zone covers here.
pub(crate) const ENVIRONMENT: &str = "env_verify";
/// The built-in zone of a configuration that writes none: nothing is allowed but what this test adds.
const DENY_ALL: &str = "deny-all";
const CREDENTIAL: &str = "postern-verify";
const CERTIFICATE: &str = "postern-verify-certificate";
const VAULT_CREDENTIAL: &str = "postern-verify-vault";
const REFRESH_CREDENTIAL: &str = "postern-verify-refresh";

/// Where the canary may stand: one place of each kind.
const PLACES: [(&str, &str); 6] = [
    ("header", "authorization"),
    ("basic", "password"),
    ("query", "key"),
    ("path", "/v1/keys/{secret}"),
    ("json", "/auth/token"),
    ("form", "client_secret"),
];

/// Limits are brought down to these, so that reaching them costs this machine little.
pub(crate) const MEMORY_MIB: i64 = 256;
const PROCESSES: i64 = 96;
const DISK_MIB: i64 = 64;

/// Which zone to test.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// By its name.
    pub zone: Option<String>,
    /// By the environment it covers.
    pub environment: Option<String>,
}

/// No zone to test.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    /// The text is not TOML: it was checked before.
    #[error("read the configuration: {0}")]
    Unreadable(String),
    /// The name is nobody's.
    #[error("no zone fits; the configuration has: {0}")]
    Unknown(String),
    /// Several are.
    #[error("several zones fit; choose one with --zone: {0}")]
    Several(String),
}

/// Where our own hosts are, and who vouches for them.
pub(crate) struct Upstreams<'a> {
    pub(crate) api: Upstream<'a>,
    pub(crate) other: Upstream<'a>,
    pub(crate) certified: Upstream<'a>,
    pub(crate) bare: Upstream<'a>,
    pub(crate) vault: Upstream<'a>,
    pub(crate) git: Upstream<'a>,
    pub(crate) impostor: Upstream<'a>,
    pub(crate) collector: SocketAddr,
    /// The port of whom [`CHANGING_HOSTS`] lead to.
    pub(crate) changing: u16,
}

/// One of them.
pub(crate) struct Upstream<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) ca: &'a str,
}

/// What a rule says: keys and values.
type Members = Vec<(&'static str, Value)>;

impl<'a> Upstreams<'a> {
    /// Those of HTTPS: name, place, and what their rule says besides where they are.
    fn by_name(&self) -> [(&'static str, &Upstream<'a>, Members); 8] {
        [
            (API_HOST, &self.api, vec![("credential", CREDENTIAL.into())]),
            (OTHER_HOST, &self.other, vec![("websocket", true.into())]),
            (CERTIFIED_HOST, &self.certified, vec![("client_certificate", CERTIFICATE.into())]),
            (BARE_HOST, &self.bare, Vec::new()),
            (VAULT_HOST, &self.vault, vec![("credential", VAULT_CREDENTIAL.into())]),
            (REFRESH_HOST, &self.vault, vec![("credential", REFRESH_CREDENTIAL.into())]),
            (GIT_HOST, &self.git, vec![("repositories", true.into())]),
            (IMPOSTOR_HOST, &self.impostor, vec![("credential", CREDENTIAL.into())]),
        ]
    }
}

/// A zone under test.
pub(crate) struct UnderTest {
    /// As the configuration names it.
    pub(crate) name: String,
    pub(crate) document: DocumentText,
    /// The names in the store that need a canary, the zone's own credentials among them.
    pub(crate) secrets: Vec<String>,
    /// The name that needs the client certificate.
    pub(crate) certificate: String,
    /// Its share of processor time: less than the machine has.
    pub(crate) cpus: f64,
    /// The devices that it lends, by their names below `/dev`.
    pub(crate) devices: Vec<String>,
}

/// Finds the zone.
///
/// # Errors
/// [`ZoneError`].
pub(crate) fn choose(document: &DocumentText, selection: &Selection) -> Result<Option<(String, Table)>, ZoneError> {
    let mut root: Table =
        toml::from_str(&document.text).map_err(|error| ZoneError::Unreadable(error.message().to_owned()))?;
    let Some(Value::Table(zones)) = root.remove("zone") else {
        return match (&selection.zone, &selection.environment) {
            (None, None) => Ok(None),
            _ => Err(ZoneError::Unknown("no zone".to_owned())),
        };
    };
    let names: Vec<_> = zones.keys().cloned().collect();
    let mut fitting = zones.into_iter().filter_map(|(name, zone)| match zone {
        Value::Table(zone) if fits(&name, &zone, selection) => Some((name, zone)),
        _ => None,
    });
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Ok(Some(only)),
        (Some(_), Some(_)) => Err(ZoneError::Several(names.join(", "))),
        (None, _) => Err(ZoneError::Unknown(names.join(", "))),
    }
}

fn fits(name: &str, zone: &Table, selection: &Selection) -> bool {
    selection.zone.as_deref().is_none_or(|wanted| wanted == name)
        && selection
            .environment
            .as_deref()
            .is_none_or(|wanted| zone.get("environment").and_then(Value::as_str) == Some(wanted))
}

/// Rewrites it for the test.
pub(crate) fn rewrite(
    chosen: Option<(String, Table)>,
    document: &DocumentText,
    upstreams: &Upstreams<'_>,
) -> UnderTest {
    let (name, mut zone) = chosen.unwrap_or_else(|| (DENY_ALL.to_owned(), Table::new()));
    zone.insert("environment".to_owned(), ENVIRONMENT.into());
    zone.remove("agents");
    let mut secrets = own_credentials(&mut zone);
    // Ours come last, and the canary after the certificate.
    let certificate = secrets.remove(secrets.len() - 2);
    add_hosts(&mut zone, upstreams);
    let cpus = limit(&mut zone, processors());
    let devices = lent_devices(&zone);
    let written = if name == DENY_ALL { "verified" } else { &name };
    let text = format!("config = 1\nzone = {{ \"{written}\" = {} }}\n", inline(&Value::Table(zone)));
    let mut attachments = document.attachments.clone();
    attachments.extend(upstreams.by_name().map(|(host, upstream, _)| (ca_file(host), upstream.ca.to_owned())));
    let document = DocumentText { file: document.file.clone(), text, attachments };
    UnderTest { name, document, secrets, certificate, cpus, devices }
}

fn ca_file(host: &str) -> String {
    format!("{host}.pem")
}

/// Every credential of the zone, ours added, comes from the store of the test: none of its real sources is asked.
fn own_credentials(zone: &mut Table) -> Vec<String> {
    let credentials = array(zone, "credential");
    credentials.push(credential(CERTIFICATE, &[], vec![location("client_certificate", true.into())]));
    let places = PLACES.iter().map(|(kind, name)| location(kind, (*name).into())).collect();
    credentials.push(credential(CREDENTIAL, &[("env", VARIABLE)], places));
    let numbered = credentials.iter_mut().filter_map(Value::as_table_mut).enumerate();
    let named: Vec<String> = numbered
        .map(|(number, credential)| {
            let name = format!("postern-verify-{number}");
            let variable =
                credential.get("source").and_then(Value::as_str).and_then(|source| source.strip_prefix("api:"));
            if let Some(variable) = variable.map(str::to_owned) {
                // What the sandbox of the zone sees it as.
                credential.entry("env").or_insert(variable.into());
            }
            credential.insert("source".to_owned(), format!("store:{name}").into());
            name
        })
        .collect();
    // Its values come sealed, as a session's vaults have them.
    for (name, variable) in [(VAULT_CREDENTIAL, VAULT_VARIABLE), (REFRESH_CREDENTIAL, REFRESH_VARIABLE)] {
        let source = [("source", &*format!("api:{variable}"))];
        credentials.push(credential(name, &source, vec![location("header", "authorization".into())]));
    }
    named
}

fn credential(name: &str, members: &[(&str, &str)], places: Vec<Value>) -> Value {
    let mut credential = Table::from_iter([("name".to_owned(), name.into()), ("inject".to_owned(), places.into())]);
    credential.extend(members.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())));
    Value::Table(credential)
}

fn location(kind: &str, value: Value) -> Value {
    Value::Table(Table::from_iter([(kind.to_owned(), value)]))
}

fn add_hosts(zone: &mut Table, upstreams: &Upstreams<'_>) {
    let rule = |host: &str, members: Vec<(&str, Value)>| {
        let mut rule = Table::from_iter([("host".to_owned(), host.into())]);
        rule.extend(members.into_iter().map(|(key, value)| (key.to_owned(), value)));
        Value::Table(rule)
    };
    let texts = |texts: &[&str]| Value::Array(texts.iter().map(|text| (*text).into()).collect());
    let hosts = array(zone, "egress");
    for (host, upstream, mut members) in upstreams.by_name() {
        members.extend([
            ("methods", texts(&["GET", "POST"])),
            // The last is where tokens are issued: that it is allowed shows who refuses it.
            ("paths", texts(&["/v1/**", "/oauth/token"])),
            ("connect", upstream.address.to_string().into()),
            ("addresses", texts(&["127.0.0.0/8"])),
            ("ca_file", ca_file(host).into()),
        ]);
        hosts.push(rule(host, members));
    }
    let port = Value::Array(vec![i64::from(upstreams.collector.port()).into()]);
    hosts.push(rule(REBOUND_HOST, vec![("scheme", "http".into()), ("ports", port)]));
    let port = Value::Array(vec![i64::from(upstreams.changing).into()]);
    let one = ("addresses", texts(&["127.0.0.1/32"]));
    hosts.push(rule(CHANGING_HOSTS, vec![("scheme", "http".into()), ("ports", port), one]));
}

/// Brings the limits down. Answers the share of processor time: one processor, or half of the only one, and what the zone gives where that is less.
fn limit(zone: &mut Table, processors: usize) -> f64 {
    let most = if processors > 1 { 1.0 } else { 0.5 };
    let sandbox = zone.entry("sandbox").or_insert_with(|| Value::Table(Table::new()));
    let Some(sandbox) = sandbox.as_table_mut() else { return most };
    lower(sandbox);
    let given = sandbox.get("cpus").and_then(|cpus| cpus.as_float().or(cpus.as_integer().map(|cpus| cpus as f64)));
    let cpus = given.map_or(most, |given| given.min(most));
    sandbox.insert("cpus".to_owned(), cpus.into());
    cpus
}

/// Brings down those that are the same everywhere.
pub(crate) fn lower(sandbox: &mut Table) {
    sandbox.insert("memory".to_owned(), format!("{MEMORY_MIB}MiB").into());
    sandbox.insert("processes".to_owned(), PROCESSES.into());
    sandbox.insert("disk".to_owned(), format!("{DISK_MIB}MiB").into());
}

fn lent_devices(zone: &Table) -> Vec<String> {
    let devices = zone.get("sandbox").and_then(|sandbox| sandbox.get("devices")?.as_array());
    let names = devices.into_iter().flatten().filter_map(|device| device.as_str()?.strip_prefix("/dev/"));
    names.map(str::to_owned).collect()
}

/// How many processors the machine has for us.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn array<'a>(table: &'a mut Table, key: &str) -> &'a mut Vec<Value> {
    let value = table.entry(key).or_insert_with(|| Value::Array(Vec::new()));
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("it was made an array above")
}

/// The environments that the rewritten zone may name.
pub(crate) fn environments() -> BTreeMap<String, String> {
    BTreeMap::from([("default".to_owned(), ENVIRONMENT.to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> DocumentText {
        DocumentText { file: "postern.toml".into(), text: text.into(), attachments: BTreeMap::new() }
    }

    const TWO: &str = "config = 1\n[zone.a]\nenvironment = \"default\"\nagents = [\"agent_1\"]\n[zone.b]\nenvironment = \"env_b\"\n[zone.b.sandbox]\nmounts = [{ host = \"/srv/tickets\", at = \"/data\", access = \"read\" }]\n[[zone.b.credential]]\nname = \"real\"\nsource = \"env:REAL\"\nenv = \"REAL_KEY\"\ninject = [{ header = \"x-real\" }]\n[[zone.b.credential]]\nname = \"vault\"\nsource = \"api:VAULT_KEY\"\ninject = [{ header = \"x-vault\" }]\n[[zone.b.egress]]\nhost = \"api.example\"\ncredential = \"real\"\n";

    fn select(zone: Option<&str>, environment: Option<&str>) -> Selection {
        Selection { zone: zone.map(Into::into), environment: environment.map(Into::into) }
    }

    #[test]
    fn the_share_of_processor_time_is_less_than_the_machine_has_and_never_more_than_the_zone_gives() {
        let zone = |cpus: &str| toml::from_str::<Table>(&format!("[sandbox]\n{cpus}\n")).unwrap();
        for (given, processors, cpus) in [("", 8, 1.0), ("", 1, 0.5), ("cpus = 4", 2, 1.0), ("cpus = 0.25", 2, 0.25)] {
            let mut zone = zone(given);
            assert_eq!(limit(&mut zone, processors), cpus, "{given} of {processors}");
            assert_eq!(zone["sandbox"]["cpus"].as_float(), Some(cpus));
        }
    }

    #[test]
    fn one_zone_is_chosen_or_the_choice_is_named() {
        let two = document(TWO);
        let name = |selection| choose(&two, &selection).map(|chosen| chosen.map(|(name, _)| name));
        assert_eq!(name(select(Some("b"), None)).unwrap().as_deref(), Some("b"));
        assert_eq!(name(select(None, Some("default"))).unwrap().as_deref(), Some("a"));
        assert!(matches!(name(select(None, None)), Err(ZoneError::Several(names)) if names == "a, b"));
        assert!(matches!(name(select(Some("c"), None)), Err(ZoneError::Unknown(_))));
        assert!(choose(&document("config = 1\n"), &select(None, None)).unwrap().is_none());
    }

    #[test]
    fn the_zone_keeps_what_it_is_and_none_of_its_secrets_is_asked_for() {
        let two = document(TWO);
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let at = || Upstream { address, ca: "a" };
        let upstreams = Upstreams {
            api: at(),
            other: at(),
            certified: at(),
            bare: at(),
            vault: at(),
            git: at(),
            impostor: at(),
            collector: address,
            changing: 9,
        };
        let chosen = choose(&two, &select(Some("b"), None)).unwrap();
        let under_test = rewrite(chosen, &two, &upstreams);
        assert!(!under_test.document.text.contains("env:REAL"), "{}", under_test.document.text);
        assert!(!under_test.document.text.contains("api:VAULT_KEY"), "{}", under_test.document.text);
        assert_eq!(under_test.secrets.len(), 3);
        let mut document = postern_policy::Document::from_text(under_test.document.clone()).unwrap();
        for (host, ..) in upstreams.by_name() {
            document.attach(&ca_file(host), "-----BEGIN CERTIFICATE-----\n");
        }
        let zones = postern_policy::Zones::load(&document, &environments()).unwrap();
        let zone = zones.iter().next().unwrap();
        assert_eq!(zone.name(), "b");
        assert_eq!(zone.sandbox().mounts.len(), 1);
        let variables: Vec<_> = zone.credentials().iter().filter_map(|one| one.env.as_deref()).collect();
        assert_eq!(variables, ["REAL_KEY", "VAULT_KEY", VARIABLE, VAULT_VARIABLE, REFRESH_VARIABLE]);
    }

    #[test]
    fn limits_are_brought_down_whatever_the_zone_says() {
        let table = ["", "memory = \"64GiB\"\nprocesses = 100000\ndisk = \"1TiB\"\n"];
        for written in table {
            let mut sandbox: Table = toml::from_str(written).unwrap();
            lower(&mut sandbox);
            let now = ["memory", "processes", "disk"].map(|key| inline(&sandbox[key]));
            assert_eq!(now, [r#""256MiB""#, "96", r#""64MiB""#], "{written}");
        }
    }
}

//! Reading a zone's egress rules: `[[zone.NAME.egress]]`.

use super::rule::{ForeignCredentials, Inspection, Repositories, Rule, WebSocket};
use crate::address::{AddressClass, class_of_net, classify};
use crate::credential::{Credential, CredentialName};
use crate::document::{At, Document, Item, Table};
use crate::{Host, HostPattern, Method, PathGlob, Port, Scheme};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

/// All rules of the zone; `None` if one of them is wrong.
pub(super) fn read_rules(
    document: &Document,
    zone: &str,
    table: &mut Table<'_>,
    credentials: &Option<Vec<Credential>>,
) -> Option<Vec<Rule>> {
    let tables = table.tables("egress");
    let given = tables.len();
    let numbered = tables.into_iter().zip(1..);
    let rules: Vec<Rule> = numbered
        .filter_map(|(mut table, number)| {
            read_rule(document, format!("{zone}/egress/{number}"), &mut table, credentials.as_deref())
        })
        .collect();
    if let Some(credentials) = credentials {
        for unused in credentials
            .iter()
            .filter(|credential| !rules.iter().any(|rule| rule.credentials().any(|name| *name == credential.name)))
        {
            table.reader().warn(
                table.at(),
                format!("credential {} is named by no egress rule, so it is never handed out", unused.name),
            );
        }
    }
    (rules.len() == given && check_apart(table, &rules)).then_some(rules)
}

fn read_rule(
    document: &Document,
    id: String,
    table: &mut Table<'_>,
    credentials: Option<&[Credential]>,
) -> Option<Rule> {
    let host = table.parsed::<HostPattern>("host");
    let host = table.required("host", host);
    let host_at = host.as_ref().map_or(table.at(), |item| item.at);
    let scheme = read_scheme(table);
    let inspection = read_inspection(table, scheme);
    let ports = read_ports(table, scheme);
    let methods = read_list::<Method>(table, "methods");
    let paths = read_list::<PathGlob>(table, "paths");
    let credential = read_credential_name(table, "credential", Kind::Placed, credentials);
    let client_certificate = read_credential_name(table, "client_certificate", Kind::Presented, credentials);
    let repositories = read_repositories(table);
    let foreign = read_foreign(table);
    let websocket = read_websocket(table);
    let addresses = read_addresses(table);
    let connect = table.parsed::<SocketAddr>("connect");
    let connect_fits = !table.has("connect") || connect.is_some();
    let ca_pem = read_ca(document, table, scheme);
    let rule = Rule {
        id,
        host: host?.value,
        scheme: scheme?,
        inspection: inspection?,
        ports: ports?,
        methods: methods?,
        paths: paths?,
        credential: credential?,
        client_certificate: client_certificate?,
        repositories: repositories?,
        foreign: foreign?,
        websocket: websocket?,
        connect: connect.map(|item| item.value),
        addresses: addresses?.into(),
        ca_pem: ca_pem?,
    };
    let sound = [
        check_connect(table, &rule, host_at, connect),
        check_clear_text(table, &rule),
        check_host(table, &rule, host_at),
        check_named(table, &rule, host_at),
        connect_fits,
    ];
    sound.into_iter().all(|holds| holds).then_some(rule)
}

fn read_scheme(table: &mut Table<'_>) -> Option<Scheme> {
    match table.string("scheme") {
        None => (!table.has("scheme")).then_some(Scheme::Https),
        Some(Item { value: "https", .. }) => Some(Scheme::Https),
        Some(Item { value: "http", .. }) => Some(Scheme::Http),
        Some(Item { value: other @ ("postgres" | "mysql" | "ssh" | "tcp"), at }) => {
            table.reader().error(at, format!("not in this build: scheme = \"{other}\""));
            None
        }
        Some(Item { at, .. }) => {
            table.reader().error(at, "scheme must be \"https\" or \"http\"");
            None
        }
    }
}

/// What cannot be seen cannot be decided: with `inspect = false` no key may speak of requests or of TLS on our side.
fn read_inspection(table: &mut Table<'_>, scheme: Option<Scheme>) -> Option<Inspection> {
    let Some(Item { value, at }) = table.boolean("inspect") else {
        return (!table.has("inspect")).then_some(Inspection::Requests);
    };
    if value {
        return Some(Inspection::Requests);
    }
    let blind: Vec<&str> = OF_REQUESTS.iter().copied().filter(|key| table.has(key)).collect();
    if !blind.is_empty() {
        let message = format!("inspect = false looks at no request, so the rule cannot have {}", blind.join(", "));
        table.reader().error(at, message);
    }
    if scheme == Some(Scheme::Http) {
        table.reader().error(at, "inspect = false goes by the TLS name, so it needs scheme = \"https\"");
    }
    (blind.is_empty() && scheme != Some(Scheme::Http)).then_some(Inspection::None)
}

fn read_ports(table: &mut Table<'_>, scheme: Option<Scheme>) -> Option<Vec<Port>> {
    if !table.has("ports") {
        return scheme.map(|scheme| vec![scheme.default_port()]);
    }
    let items = table.integers("ports")?;
    let mut ports = Vec::new();
    for item in &items {
        match u16::try_from(item.value).ok().and_then(Port::new) {
            Some(port) => ports.push(port),
            None => table.reader().error(item.at, "a port is a number from 1 to 65535"),
        }
    }
    not_empty(table, "ports", items.len())?;
    (ports.len() == items.len()).then_some(ports)
}

/// A list that is left out allows all; an empty one would allow nothing and is refused. The outer `None` is an error.
fn read_list<T: FromStr<Err: std::fmt::Display>>(table: &mut Table<'_>, key: &str) -> Option<Option<Vec<T>>> {
    if !table.has(key) {
        return Some(None);
    }
    let given = table.strings(key)?.len();
    not_empty(table, key, given)?;
    let parsed: Vec<T> = table.parsed_all(key)?.into_iter().map(|item| item.value).collect();
    (parsed.len() == given).then_some(Some(parsed))
}

/// What is wrong in it was said already, where it stands.
fn not_empty(table: &Table<'_>, key: &str, length: usize) -> Option<()> {
    if table.is_empty_array(key) {
        table
            .reader()
            .error(table.at(), format!("{key} is empty, so the rule would allow nothing; leave it out or name some"));
    }
    (length > 0).then_some(())
}

/// How a rule uses a credential.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Put into requests.
    Placed,
    /// Presented in the TLS handshake.
    Presented,
}

fn read_credential_name(
    table: &mut Table<'_>,
    key: &str,
    kind: Kind,
    credentials: Option<&[Credential]>,
) -> Option<Option<CredentialName>> {
    let Some(item) = table.string(key) else {
        return (!table.has(key)).then_some(None);
    };
    let name = CredentialName::new(item.value);
    // Where the credentials themselves are wrong, that is what is said.
    let Some(credentials) = credentials else { return Some(Some(name)) };
    let known = credentials.iter().find(|credential| credential.name == name);
    let wrong = match (known, kind) {
        (None, _) => Some(format!("no credential of this zone is named {:?}", item.value)),
        (Some(found), Kind::Placed) if found.is_client_certificate() => {
            Some(format!("{name} is a client certificate: name it with client_certificate"))
        }
        (Some(found), Kind::Presented) if !found.is_client_certificate() => {
            Some(format!("{name} is no client certificate: it needs inject = [{{ client_certificate = true }}]"))
        }
        (Some(_), Kind::Placed | Kind::Presented) => None,
    };
    if let Some(wrong) = &wrong {
        table.reader().error(item.at, wrong.clone());
    }
    wrong.is_none().then_some(Some(name))
}

/// Refused unless the rule says otherwise: a token that a client of the API brings is the organisation's word no more than its owner's.
fn read_repositories(table: &mut Table<'_>) -> Option<Repositories> {
    match table.boolean("repositories") {
        None => (!table.has("repositories")).then_some(Repositories::Refused),
        Some(Item { value: false, .. }) => Some(Repositories::Refused),
        Some(Item { value: true, .. }) => Some(Repositories::Taken),
    }
}

fn read_foreign(table: &mut Table<'_>) -> Option<Option<ForeignCredentials>> {
    match table.string("foreign_credentials") {
        None => (!table.has("foreign_credentials")).then_some(None),
        Some(Item { value: "refuse", .. }) => Some(Some(ForeignCredentials::Refuse)),
        Some(Item { value: "allow", .. }) => Some(Some(ForeignCredentials::Allow)),
        Some(Item { at, .. }) => {
            table.reader().error(at, "foreign_credentials must be \"refuse\" or \"allow\"");
            None
        }
    }
}

/// Refused unless the rule says otherwise: what is said over a WebSocket is not decided message by message.
fn read_websocket(table: &mut Table<'_>) -> Option<WebSocket> {
    match table.boolean("websocket") {
        None => (!table.has("websocket")).then_some(WebSocket::Refused),
        Some(Item { value: true, .. }) => Some(WebSocket::Carried),
        Some(Item { value: false, .. }) => Some(WebSocket::Refused),
    }
}

/// The ranges of a rule; none where the key is left out.
pub(crate) fn read_addresses(table: &mut Table<'_>) -> Option<Vec<IpNet>> {
    read_nets(table, "addresses")
}

/// The ranges that a key lists; none where it is left out.
pub(crate) fn read_nets(table: &mut Table<'_>, key: &str) -> Option<Vec<IpNet>> {
    if !table.has(key) {
        return Some(Vec::new());
    }
    let items = table.strings(key)?;
    not_empty(table, key, items.len())?;
    let nets: Vec<IpNet> = items.iter().filter_map(|item| read_net(table, key, *item)).collect();
    (nets.len() == items.len()).then_some(nets)
}

fn read_net(table: &Table<'_>, key: &str, item: Item<&str>) -> Option<IpNet> {
    let net = item.value.parse::<IpNet>().or_else(|_| item.value.parse::<IpAddr>().map(IpNet::from));
    let Ok(net) = net else {
        table.reader().error(item.at, format!("{key}: {:?} is not a range such as 10.3.0.0/24", item.value));
        return None;
    };
    let net = net.trunc();
    if MAPPED.contains(&net) {
        let message =
            format!("{key}: {net} is IPv4 in the form of IPv6, which nothing is dialled in; write it as IPv4");
        table.reader().error(item.at, message);
        return None;
    }
    let whole = class_of_net(&net).is_some();
    if !whole {
        table.reader().error(
            item.at,
            format!("{key}: {net} reaches across public and special ranges; name each range that is meant"),
        );
    }
    whole.then_some(net)
}

/// The PEM text of the rule's CA. The outer `None` is an error.
pub(crate) fn read_ca(document: &Document, table: &mut Table<'_>, scheme: Option<Scheme>) -> Option<Option<Arc<str>>> {
    let Some(item) = table.string("ca_file") else {
        return (!table.has("ca_file")).then_some(None);
    };
    if scheme == Some(Scheme::Http) {
        table.reader().error(item.at, "ca_file has no meaning with scheme = \"http\"");
        return None;
    }
    match document.attachment(item.value) {
        Some(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => Some(Some(pem.into())),
        Some(_) => {
            table.reader().error(item.at, format!("ca_file: {} holds no PEM certificate", item.value));
            None
        }
        None => {
            table.reader().error(item.at, format!("ca_file: {} cannot be read", item.value));
            None
        }
    }
}

/// An address written in the rule itself, as `connect` or as the host, is judged like any other: special ones must
/// be named in `addresses`.
fn check_connect(table: &Table<'_>, rule: &Rule, host_at: At, connect: Option<Item<SocketAddr>>) -> bool {
    let written = match (connect, &rule.host) {
        (Some(item), _) => Some(("connect", item.value.ip(), item.value.port(), item.at)),
        (None, HostPattern::Exact(host)) => host.address().map(|address| ("host", address, 1, host_at)),
        (None, HostPattern::Below(_)) => None,
    };
    let Some((key, address, number, at)) = written else {
        return true;
    };
    let port = rule.ports.first().copied().unwrap_or(rule.scheme.default_port());
    let holds = rule.destination(&address.into(), port).allows(address) && number != 0;
    if !holds {
        let why = match classify(address) {
            AddressClass::Public => "is outside `addresses`, or has no port",
            AddressClass::Private
            | AddressClass::LinkLocal
            | AddressClass::Loopback
            | AddressClass::Special
            | AddressClass::Metadata => "is not a public address, so `addresses` must name it",
        };
        table.reader().error(at, format!("{key}: {address} {why}"));
    }
    holds
}

/// A credential in the clear is read by everything on the way: only this very machine is no way at all.
fn check_clear_text(table: &mut Table<'_>, rule: &Rule) -> bool {
    if rule.scheme == Scheme::Http && rule.client_certificate.is_some() {
        table.reader().error(table.at(), "client_certificate needs scheme = \"https\"");
        return false;
    }
    let takes_tokens = rule.repositories == Repositories::Taken;
    if rule.scheme == Scheme::Https || (rule.credential.is_none() && !takes_tokens) {
        return true;
    }
    let local = !rule.addresses.is_empty()
        && rule.addresses.iter().all(|net| class_of_net(net) == Some(AddressClass::Loopback));
    let at = match rule.credential {
        Some(_) => table.string("credential").map(|item| item.at),
        None => table.boolean("repositories").map(|item| item.at),
    };
    let at = at.unwrap_or(table.at());
    if local {
        table.reader().warn(at, "a credential leaves in the clear here, to loopback addresses only");
    } else {
        let message =
            "a credential is not sent in the clear: use scheme = \"https\", or name loopback `addresses` only";
        table.reader().error(at, message);
    }
    local
}

/// A connection that passes through is known by its TLS name alone, and an address has none.
fn check_named(table: &Table<'_>, rule: &Rule, at: At) -> bool {
    let address = matches!(&rule.host, HostPattern::Exact(host) if host.address().is_some());
    let holds = rule.inspection == Inspection::Requests || !address;
    if !holds {
        table.reader().error(at, "inspect = false goes by the TLS name: name the host, not its address");
    }
    holds
}

/// One connection is inspected or not, whichever rule comes first.
fn check_apart(table: &Table<'_>, rules: &[Rule]) -> bool {
    let passing = || rules.iter().filter(|rule| rule.inspection == Inspection::None);
    let clash = |one: &Rule, other: &Rule| {
        other.inspection == Inspection::Requests
            && one.host.meets(&other.host)
            && one.ports.iter().any(|port| other.ports.contains(port))
    };
    let clashes: Vec<_> = passing()
        .flat_map(|one| rules.iter().filter(|other| clash(one, other)).map(move |other| (one, other)))
        .collect();
    for (one, other) in &clashes {
        let message =
            format!("{} passes through what {} inspects: give them different hosts or ports", one.id, other.id);
        table.reader().error(table.at(), message);
    }
    clashes.is_empty()
}

/// Suffixes where anybody can have a name: allowed with a warning, never with a credential. Below such a suffix it
/// depends on the service, so there it is a warning in both cases.
fn check_host(table: &Table<'_>, rule: &Rule, at: At) -> bool {
    let HostPattern::Below(suffix) = &rule.host else {
        return true;
    };
    let below = |inner: &str, outer: &str| inner.strip_suffix(outer).is_some_and(|rest| rest.ends_with('.'));
    let Some((shared, reason)) =
        SHARED_DOMAINS.iter().find(|(shared, _)| suffix == shared || below(shared, suffix) || below(suffix, shared))
    else {
        return true;
    };
    let message = format!("*.{suffix} reaches strangers: {reason}");
    let refused = rule.uses_a_credential() && !below(suffix, shared);
    if refused {
        table.reader().error(at, format!("{message}; name the host exactly where a credential is used"));
    } else {
        table.reader().warn(at, message);
    }
    !refused
}

/// Keys of a rule that mean nothing where requests are not seen.
const OF_REQUESTS: &[&str] = &[
    "methods",
    "paths",
    "credential",
    "client_certificate",
    "repositories",
    "foreign_credentials",
    "ca_file",
    "websocket",
];

/// Addresses are judged in their one form, which for these is IPv4.
static MAPPED: LazyLock<IpNet> = LazyLock::new(|| "::ffff:0:0/96".parse().expect("a range"));

/// Why strangers may have names beside this one, where they may.
#[must_use]
pub fn shared_domain(host: &Host) -> Option<&'static str> {
    let name = host.name()?;
    let below = |suffix: &str| name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
    SHARED_DOMAINS.iter().find(|(suffix, _)| below(suffix)).map(|(_, reason)| *reason)
}

static SHARED_DOMAINS: LazyLock<Vec<(&'static str, &'static str)>> = LazyLock::new(|| {
    crate::data::lines(include_str!("../../data/shared_domains.txt"))
        .map(|line| {
            let ([suffix], reason) = crate::data::columns(line).expect("the shipped list is read whole by a test");
            (suffix, reason)
        })
        .collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shared_domain_is_a_name_listed_once_with_a_reason() {
        for (suffix, reason) in SHARED_DOMAINS.iter() {
            assert_eq!(suffix.parse::<crate::Host>().unwrap().name(), Some(*suffix));
            assert_eq!(SHARED_DOMAINS.iter().filter(|(other, _)| other == suffix).count(), 1, "{suffix}");
            assert!(reason.len() > 10, "{suffix}");
        }
    }
}

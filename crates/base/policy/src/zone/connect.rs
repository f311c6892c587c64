//! May a host and port be talked to at all?

use super::Zone;
use super::rule::{Inspection, Rule};
use crate::cedar::{Action, Attribute, fact};
use crate::permit::{ConnectPermit, PassPermit};
use crate::reason::{Denial, Reason};
use crate::request::{Connect, Transport};
use crate::{Host, Port, Scheme};

pub(super) fn decide(zone: &Zone, connect: &Connect) -> Result<ConnectPermit, Denial> {
    let transport = match connect.transport {
        Transport::Udp => return Err(Denial::new(Reason::UdpRefused)),
        Transport::Other | Transport::Unread | Transport::Tls | Transport::Http => connect.transport,
    };
    let here: Vec<&Rule> = zone.rules.iter().filter(|rule| rule.names(&connect.host)).collect();
    let at_port: Vec<&Rule> = here.iter().copied().filter(|rule| rule.ports.contains(&connect.port)).collect();
    if at_port.is_empty() {
        return Err(unreachable(&connect.host, &here));
    }
    if transport == Transport::Other {
        return Err(Denial::new(Reason::ProtocolUnknown).by(&at_port[0].id));
    }
    let agreeing: Vec<&Rule> = at_port.iter().copied().filter(|rule| speaks(rule.scheme, transport)).collect();
    let Some(rule) = agreeing.first() else {
        return Err(wrong_scheme(at_port[0]));
    };
    ask(zone, rule, connect)?;
    let mut schemes: Vec<Scheme> = agreeing.iter().map(|rule| rule.scheme).collect();
    schemes.sort_unstable();
    schemes.dedup();
    Ok(ConnectPermit { host: connect.host.clone(), port: connect.port, schemes, rule: rule.id.clone() })
}

/// Whether a TLS connection to this host and port passes through uninspected; `None` where its requests are inspected,
/// or no rule names it.
pub(super) fn pass(zone: &Zone, host: &Host, port: Port) -> Result<Option<PassPermit>, Denial> {
    let passing =
        |rule: &&Rule| rule.inspection == Inspection::None && rule.host.covers(host) && rule.ports.contains(&port);
    let Some(rule) = zone.rules.iter().find(passing) else {
        return Ok(None);
    };
    ask(zone, rule, &Connect { host: host.clone(), port, transport: Transport::Tls })?;
    Ok(Some(PassPermit {
        destination: rule.destination(host, port),
        rule: rule.id.clone(),
        policy_digest: zone.digest.clone(),
        also: None,
    }))
}

/// Whether a rule of this scheme has a say about a connection that looks like this.
fn speaks(scheme: Scheme, transport: Transport) -> bool {
    match transport {
        Transport::Unread => true,
        Transport::Tls => scheme == Scheme::Https,
        Transport::Http => scheme == Scheme::Http,
        Transport::Other | Transport::Udp => false,
    }
}

/// Each typed matcher of a rule, and whether it agrees with the connection.
pub(super) fn matchers(rule: &Rule, connect: &Connect) -> [(&'static str, bool); 3] {
    [
        ("host", rule.names(&connect.host)),
        ("port", rule.ports.contains(&connect.port)),
        ("scheme", speaks(rule.scheme, connect.transport)),
    ]
}

pub(super) fn ask(zone: &Zone, rule: &Rule, connect: &Connect) -> Result<(), Denial> {
    let host = connect.host.to_string();
    let transport = match connect.transport {
        Transport::Tls => "tls",
        Transport::Http => "http",
        Transport::Unread | Transport::Other | Transport::Udp => "unread",
    };
    let attributes = vec![
        ("host", Attribute::Text(&host)),
        ("port", Attribute::Number(connect.port.number())),
        ("transport", Attribute::Text(transport)),
        ("inspected", Attribute::Flag(rule.inspection == Inspection::Requests)),
        ("facts", Attribute::Names(facts(rule, &matchers(rule, connect)))),
    ];
    zone.policies.ask(&rule.id, Action::Connect, &host, attributes)
}

/// The names of the matchers that agreed.
pub(super) fn facts(rule: &Rule, matchers: &[(&str, bool)]) -> Vec<String> {
    matchers.iter().filter(|(_, agrees)| *agrees).map(|(matcher, _)| fact(&rule.id, matcher)).collect()
}

/// Why no rule lets this host and port be reached, given the rules for the host.
pub(super) fn unreachable(host: &Host, here: &[&Rule]) -> Denial {
    match here.first() {
        None if host.address().is_some() => Denial::new(Reason::RawAddress),
        None => Denial::new(Reason::HostNotAllowed),
        Some(rule) => {
            let mut ports: Vec<_> = here.iter().flat_map(|rule| &rule.ports).copied().collect();
            ports.sort_unstable();
            ports.dedup();
            Denial::advising(Reason::PortNotAllowed, format!("the zone allows {host} on port {}", listed(&ports)))
                .by(&rule.id)
        }
    }
}

/// Why a connection of this kind does not fit the rule for its host and port.
pub(super) fn wrong_scheme(rule: &Rule) -> Denial {
    Denial::advising(Reason::SchemeNotAllowed, format!("the zone allows this host and port over {} only", rule.scheme))
        .by(&rule.id)
}

pub(super) fn listed<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

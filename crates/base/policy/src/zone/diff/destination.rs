//! What two rules that both permit a request make of it: where it is dialled, whom it trusts, what it lets through.

use super::super::rule::{ForeignCredentials, Rule};
use super::cells::Hosts;
use super::{Change, ChangeKind};
use crate::Port;
use crate::address::{AddressClass, class_of_net};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A rule that decides, and what it makes of credentials that are not ours.
#[derive(Clone, Copy)]
pub(super) struct Deciding<'z> {
    pub(super) rule: &'z Rule,
    pub(super) foreign: ForeignCredentials,
}

/// Everything in which the second is looser than the first.
pub(super) fn looser(from: Deciding<'_>, to: Deciding<'_>, hosts: &Hosts, port: Port) -> Vec<Change> {
    let foreign = (from.foreign == ForeignCredentials::Refuse && to.foreign == ForeignCredentials::Allow).then(|| {
        Change::shown(ChangeKind::ForeignCredentials, "keys from elsewhere are let through").between("refuse", "allow")
    });
    let addresses = (!dials_within(from.rule, to.rule, hosts, port)).then(|| {
        Change::shown(ChangeKind::Addresses, "dialled at other addresses").between(dialled(from.rule), dialled(to.rule))
    });
    let authority = (from.rule.ca_pem != to.rule.ca_pem).then(|| {
        Change::shown(ChangeKind::Authority, "the upstream is verified by another authority")
            .between(authority(from.rule), authority(to.rule))
    });
    let certificate =
        to.rule.client_certificate.as_ref().filter(|_| from.rule.client_certificate != to.rule.client_certificate);
    let certificate = certificate
        .map(|name| Change::shown(ChangeKind::Credential, format!("the client certificate {name} is presented there")));
    [foreign, addresses, authority, certificate].into_iter().flatten().collect()
}

/// The same rule, if it said nothing of where it is dialled, whom it trusts and what it lets through.
pub(super) fn unsaid(rule: &Rule) -> Rule {
    let nothing = Rule { connect: None, addresses: Arc::new([]), ca_pem: None, foreign: None, ..rule.clone() };
    Rule { client_certificate: None, ..nothing }
}

/// Whether whatever the second rule dials, the first would.
fn dials_within(from: &Rule, to: &Rule, hosts: &Hosts, port: Port) -> bool {
    let allowed = |rule: &Rule, address: IpAddr| rule.destination(&address.into(), port).allows(address);
    match (from.connect, to.connect, hosts) {
        (Some(before), Some(after), _) => before == after,
        (None, Some(after), Hosts::One(host)) if host.address().is_some() => {
            host.address() == Some(after.ip()) && after.port() == port.number()
        }
        (None, Some(after), _) => after.port() == port.number() && allowed(from, after.ip()),
        (Some(before), None, Hosts::One(host)) if host.address().is_some() => {
            host.address() == Some(before.ip()) && before.port() == port.number()
        }
        (Some(before), None, _) => before.port() == port.number() && within(&to.addresses, &[IpNet::from(before.ip())]),
        // An address that is the host itself is dialled and nothing else.
        (None, None, Hosts::One(host)) if host.address().is_some() => true,
        (None, None, _) => within(&to.addresses, &from.addresses),
    }
}

/// Whether every address that a rule with the first ranges may dial is one that a rule with the second may. Ranges name
/// addresses of their own class alone; no ranges at all name everything public.
pub(super) fn within(inner: &[IpNet], outer: &[IpNet]) -> bool {
    let (inner, outer) = (by_class(inner), by_class(outer));
    let covered = |net: &IpNet, nets: &[IpNet]| nets.iter().any(|outer| outer.contains(net));
    inner.iter().all(|(class, nets)| match (nets, outer.get(class)) {
        (_, Some(None)) => true,
        (Some(nets), Some(Some(outer))) => nets.iter().all(|net| covered(net, outer)),
        (None, Some(Some(_))) | (_, None) => false,
    })
}

/// The ranges of each class, neighbours joined; `None` stands for the whole class.
fn by_class(nets: &[IpNet]) -> BTreeMap<AddressClass, Option<Vec<IpNet>>> {
    if nets.is_empty() {
        return BTreeMap::from([(AddressClass::Public, None)]);
    }
    let mut classes: BTreeMap<AddressClass, Vec<IpNet>> = BTreeMap::new();
    for net in nets {
        // A range across classes does not load.
        classes.entry(class_of_net(net).unwrap_or(AddressClass::Public)).or_default().push(*net);
    }
    classes.into_iter().map(|(class, nets)| (class, Some(IpNet::aggregate(&nets)))).collect()
}

fn dialled(rule: &Rule) -> String {
    match (rule.connect, rule.addresses.is_empty()) {
        (Some(address), _) => address.to_string(),
        (None, true) => "public addresses".to_owned(),
        (None, false) => rule.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn authority(rule: &Rule) -> &'static str {
    if rule.ca_pem.is_some() { "its ca_file" } else { "the public roots" }
}

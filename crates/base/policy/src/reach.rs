//! How far a vault credential goes by its own word: hosts and places. A zone's rules decide within it, never beyond.

use serde::{Deserialize, Serialize};

use crate::credential::Location;
use crate::reason::{Denial, Reason};
use crate::{Host, HostPattern};

/// Hosts and places of a vault credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// `*`, or hosts and `*.` patterns. Empty: none.
    pub hosts: Vec<String>,
    /// Whether it may stand in a header.
    pub header: bool,
    /// Whether it may stand in a body.
    pub body: bool,
}

impl Reach {
    /// In each of its places, at no host.
    pub(crate) const ANYWHERE: Self = Self { hosts: Vec::new(), header: true, body: true };

    /// Whether it may go to this host.
    #[must_use]
    pub fn covers_host(&self, host: &Host) -> bool {
        self.hosts.iter().any(|text| match text.as_str() {
            EVERY_HOST => true,
            text => text.parse::<HostPattern>().is_ok_and(|pattern| pattern.covers(host)),
        })
    }

    /// Whether it may stand there.
    #[must_use]
    pub fn covers_place(&self, location: &Location) -> bool {
        match location {
            Location::Header(_) | Location::Basic(_) => self.header,
            Location::Json(_) | Location::Form(_) => self.body,
            Location::Query(_) | Location::Path(_) | Location::ClientCertificate => false,
        }
    }

    /// Whether it goes no further than `outer`.
    #[must_use]
    pub fn within(&self, outer: &Self) -> bool {
        let covered = |host: &String| outer.hosts.iter().any(|pattern| lies_within(host, pattern));
        (outer.header || !self.header) && (outer.body || !self.body) && self.hosts.iter().all(covered)
    }

    /// May it be put there, in a request to this host that the zone permits?
    ///
    /// # Errors
    /// `placeholder_wrong_host`, `placeholder_wrong_location`.
    pub fn admits(&self, host: &Host, location: &Location) -> Result<(), Denial> {
        if !self.covers_host(host) {
            let step =
                format!("the vault's credential goes to {} alone; ask its owner to allow {host}", self.named_hosts());
            return Err(Denial::advising(Reason::PlaceholderWrongHost, step));
        }
        if !self.covers_place(location) {
            let step =
                format!("the vault's credential may not stand at {location}; ask its owner for its injection_location");
            return Err(Denial::advising(Reason::PlaceholderWrongLocation, step));
        }
        Ok(())
    }

    /// Its hosts for which `reached` says no. `*` is no host.
    pub(crate) fn hosts_without(&self, reached: impl Fn(&HostPattern) -> bool) -> Vec<String> {
        let unreached =
            |text: &&String| *text != EVERY_HOST && !text.parse::<HostPattern>().is_ok_and(|one| reached(&one));
        self.hosts.iter().filter(unreached).cloned().collect()
    }

    fn named_hosts(&self) -> String {
        if self.hosts.is_empty() { "no host".to_owned() } else { self.hosts.join(", ") }
    }
}

fn lies_within(host: &str, pattern: &str) -> bool {
    if pattern == EVERY_HOST || pattern == host {
        return true;
    }
    match (host.parse::<HostPattern>(), pattern.parse::<HostPattern>()) {
        (Ok(HostPattern::Exact(host)), Ok(pattern)) => pattern.covers(&host),
        (Ok(HostPattern::Below(inner)), Ok(HostPattern::Below(outer))) => {
            inner.strip_suffix(&outer).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        }
        _ => false,
    }
}

const EVERY_HOST: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(hosts: &[&str], header: bool, body: bool) -> Reach {
        Reach { hosts: hosts.iter().map(|host| (*host).to_owned()).collect(), header, body }
    }

    #[test]
    fn a_vault_credential_goes_to_its_hosts_and_stands_in_its_places_alone() {
        let header = Location::Header("authorization".to_owned());
        let basic = Location::Basic(crate::credential::BasicPart::Password);
        let json = Location::Json("/token".parse().unwrap());
        let query = Location::Query("key".parse().unwrap());
        let (both, head, body) = (&["a.example"], reach(&["*"], true, false), reach(&["*"], false, true));
        for (reach, host, location, expected) in [
            (reach(both, true, true), "a.example", &header, None),
            (reach(both, true, true), "A.example.", &json, None),
            (reach(both, true, true), "b.example", &header, Some(Reason::PlaceholderWrongHost)),
            (reach(both, true, true), "x.a.example", &header, Some(Reason::PlaceholderWrongHost)),
            (reach(&["*.a.example"], true, true), "x.a.example", &basic, None),
            (reach(&["*.a.example"], true, true), "a.example", &basic, Some(Reason::PlaceholderWrongHost)),
            (reach(&["192.0.2.1"], true, true), "192.0.2.1", &header, None),
            (reach(&[], true, true), "a.example", &header, Some(Reason::PlaceholderWrongHost)),
            (reach(&["not a host"], true, true), "a.example", &header, Some(Reason::PlaceholderWrongHost)),
            (head.clone(), "a.example", &header, None),
            (head.clone(), "a.example", &basic, None),
            (head, "a.example", &json, Some(Reason::PlaceholderWrongLocation)),
            (body.clone(), "a.example", &header, Some(Reason::PlaceholderWrongLocation)),
            (body, "a.example", &json, None),
            (reach(&["*"], true, true), "a.example", &query, Some(Reason::PlaceholderWrongLocation)),
            (
                reach(&["*"], true, true),
                "a.example",
                &Location::ClientCertificate,
                Some(Reason::PlaceholderWrongLocation),
            ),
        ] {
            let denial = reach.admits(&host.parse().unwrap(), location).err();
            assert_eq!(denial.map(|denial| denial.reason), expected, "{reach:?} {host} {location}");
        }
    }

    #[test]
    fn narrower_is_what_lies_within_in_hosts_and_in_places() {
        for (inner, outer, expected) in [
            (reach(&["a.example"], true, false), reach(&["*"], true, true), true),
            (reach(&["x.a.example", "*.b.a.example"], true, true), reach(&["*.a.example"], true, true), true),
            (reach(&["*.a.example"], true, true), reach(&["*.a.example"], true, true), true),
            (reach(&["a.example"], true, true), reach(&["*.a.example"], true, true), false),
            (reach(&["*.xa.example"], true, true), reach(&["*.a.example"], true, true), false),
            (reach(&["*"], true, true), reach(&["a.example"], true, true), false),
            (reach(&["a.example"], true, true), reach(&["a.example"], true, false), false),
            (reach(&["a.example"], true, true), reach(&["a.example"], false, true), false),
            (reach(&["a.example", "b.example"], true, true), reach(&["a.example"], true, true), false),
        ] {
            assert_eq!(inner.within(&outer), expected, "{inner:?} in {outer:?}");
        }
    }
}

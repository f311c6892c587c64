//! A session's name table: every name asked for gets a synthetic address, and an address leads back to its name.
//! Nothing is looked up here: that happens after a permit, at the dial. Entries are never reused in a session, so an
//! answer that a client keeps can never come to mean another name.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::limits;

/// First address of 198.18.0.0/15 (RFC 2544: set aside for benchmarks, routed nowhere).
const FIRST_V4: u32 = 0xC612_0000;
/// Bits of the host part of a /15.
const HOST_BITS_V4: u32 = 17;
/// fd70:7374:6e00::/64, a unique local prefix (RFC 4193).
const PREFIX_V6: u128 = 0xfd70_7374_6e00_0000 << 64;

/// Names of one session, by the order in which they were first asked for.
#[derive(Debug, Default)]
pub(crate) struct NameTable {
    names: Vec<String>,
    by_name: HashMap<String, u32>,
}

/// The two synthetic addresses of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Synthetic {
    /// In 198.18.0.0/15.
    pub(crate) v4: Ipv4Addr,
    /// In fd70:7374:6e00::/64.
    pub(crate) v6: Ipv6Addr,
}

/// What an address stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    /// The name that this synthetic address was given to.
    Name(&'a str),
    /// A synthetic address that was never given out.
    Unassigned,
    /// An ordinary address: nobody asked for a name.
    Raw,
}

/// The session has asked for too many names.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session's name table is full")]
pub(crate) struct TableFull;

impl NameTable {
    /// The addresses of `name` (canonical), given now or earlier.
    ///
    /// # Errors
    /// When the table is full and the name is new.
    pub(crate) fn assign(&mut self, name: &str) -> Result<Synthetic, TableFull> {
        if let Some(index) = self.by_name.get(name) {
            return Ok(Synthetic::at(*index));
        }
        if self.names.len() >= limits::NAMES_PER_SESSION {
            return Err(TableFull);
        }
        self.names.push(name.to_owned());
        // Index 0 would be the network's own address.
        let index = u32::try_from(self.names.len()).map_err(|_| TableFull)?;
        self.by_name.insert(name.to_owned(), index);
        Ok(Synthetic::at(index))
    }

    /// What `address` stands for in this session.
    #[must_use]
    pub(crate) fn meaning(&self, address: IpAddr) -> Meaning<'_> {
        let Some(index) = index_of(address) else {
            return Meaning::Raw;
        };
        index
            .checked_sub(1)
            .and_then(|at| self.names.get(at as usize))
            .map_or(Meaning::Unassigned, |name| Meaning::Name(name))
    }
}

impl Synthetic {
    fn at(index: u32) -> Self {
        Self { v4: Ipv4Addr::from(FIRST_V4 + index), v6: Ipv6Addr::from(PREFIX_V6 + u128::from(index)) }
    }
}

fn index_of(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(v4) => index_of_v4(v4),
        // ::ffff:198.18.0.1 is the same destination as 198.18.0.1.
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => index_of_v4(v4),
            None => {
                let bits = u128::from(v6);
                (bits >> 64 == PREFIX_V6 >> 64).then(|| u32::try_from(bits & u128::from(u64::MAX)).unwrap_or(u32::MAX))
            }
        },
    }
}

fn index_of_v4(address: Ipv4Addr) -> Option<u32> {
    let bits = u32::from(address);
    (bits >> HOST_BITS_V4 == FIRST_V4 >> HOST_BITS_V4).then(|| bits - FIRST_V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_an_address_and_back_in_both_families() {
        let mut table = NameTable::default();
        let first = table.assign("a.example").unwrap();
        let second = table.assign("b.example").unwrap();
        assert_ne!(first, second);
        assert_eq!(table.assign("a.example").unwrap(), first);
        for address in [IpAddr::V4(second.v4), IpAddr::V6(second.v6), IpAddr::V6(second.v4.to_ipv6_mapped())] {
            assert_eq!(table.meaning(address), Meaning::Name("b.example"));
        }
    }

    #[test]
    fn addresses_that_were_not_given_out_mean_no_name() {
        let mut table = NameTable::default();
        table.assign("a.example").unwrap();
        for unassigned in ["198.18.0.0", "198.18.0.2", "198.19.255.255", "fd70:7374:6e00::", "fd70:7374:6e00:0:ffff::1"]
        {
            assert_eq!(table.meaning(unassigned.parse().unwrap()), Meaning::Unassigned, "{unassigned}");
        }
        for raw in ["198.17.255.255", "198.20.0.0", "127.0.0.1", "fd70:7374:6e00:1::1", "::1"] {
            assert_eq!(table.meaning(raw.parse().unwrap()), Meaning::Raw, "{raw}");
        }
    }

    #[test]
    fn a_full_table_refuses_new_names_and_keeps_old_ones() {
        let mut table = NameTable::default();
        let first = table.assign("n0.example").unwrap();
        for index in 1..limits::NAMES_PER_SESSION {
            table.assign(&format!("n{index}.example")).unwrap();
        }
        assert_eq!(table.assign("one-more.example"), Err(TableFull));
        assert_eq!(table.assign("n0.example"), Ok(first));
    }
}

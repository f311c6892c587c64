//! The roles that confine themselves, and of which parts each one's profile is made.

use crate::list::{Entry, entries};
use crate::seccomp::NEVER;

/// A role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The control plane.
    Server,
    /// Where connectors arrive.
    Edge,
    /// The runner.
    Worker,
    /// The inner end of tunnels.
    Gateway,
    /// What dials the edge for the gateway.
    Connector,
    /// The sandboxes' exit.
    Egress,
    /// The keeper of secrets.
    Custody,
    /// The writer of the audit log.
    Audit,
}

/// A kind of files of the system, as data/system.list names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Names,
    Certificates,
    Random,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 8] = [
        Self::Server,
        Self::Edge,
        Self::Worker,
        Self::Gateway,
        Self::Connector,
        Self::Egress,
        Self::Custody,
        Self::Audit,
    ];

    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Edge => "edge",
            Self::Worker => "worker",
            Self::Gateway => "gateway",
            Self::Connector => "connector",
            Self::Egress => "egress",
            Self::Custody => "custody",
            Self::Audit => "audit",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether it opens TCP connections.
    pub(crate) fn dials(self) -> bool {
        !matches!(self, Self::Edge | Self::Custody | Self::Audit)
    }

    /// What of the system's files it reads.
    pub(crate) fn reads(self) -> &'static [System] {
        match self {
            Self::Server => &[System::Names, System::Certificates, System::Random],
            Self::Worker | Self::Gateway | Self::Connector | Self::Egress => &[System::Names, System::Certificates],
            Self::Edge | Self::Custody | Self::Audit => &[],
        }
    }

    /// The entries of its filter.
    pub(crate) fn calls(self) -> impl Iterator<Item = Entry<'static>> {
        self.lists().into_iter().flat_map(entries)
    }

    fn lists(self) -> Vec<&'static str> {
        let own: &[&str] = match self {
            Self::Server => &[WRITING, NETWORK, ACCEPTING, REFUSING, SERVER],
            Self::Edge => &[ACCEPTING, REFUSING, EDGE],
            Self::Worker => &[WRITING, NETWORK, KEEPING, WORKER],
            Self::Gateway => &[WRITING, NETWORK, KEEPING],
            Self::Connector => &[NETWORK, REFUSING],
            Self::Egress => &[NETWORK, ACCEPTING, REFUSING],
            Self::Custody | Self::Audit => &[WRITING, SILENT],
        };
        [COMMON, NEVER].into_iter().chain(own.iter().copied()).collect()
    }
}

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Certificates => "certificates",
            Self::Random => "random",
        }
    }

    /// The paths of this kind.
    pub(crate) fn paths(self) -> impl Iterator<Item = &'static str> {
        entries(SYSTEM).filter(move |entry| entry.words[0] == self.name()).map(|entry| entry.words[1])
    }
}

const COMMON: &str = include_str!("../data/common.list");
const WRITING: &str = include_str!("../data/writing.list");
const NETWORK: &str = include_str!("../data/network.list");
const ACCEPTING: &str = include_str!("../data/accepting.list");
const KEEPING: &str = include_str!("../data/keeping.list");
const REFUSING: &str = include_str!("../data/refusing.list");
const WORKER: &str = include_str!("../data/worker.list");
const SERVER: &str = include_str!("../data/server.list");
const EDGE: &str = include_str!("../data/edge.list");
const SILENT: &str = include_str!("../data/silent.list");
const SYSTEM: &str = include_str!("../data/system.list");

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::list::{dead_names, unreasoned};
    use crate::seccomp::Filter;

    #[test]
    fn every_role_has_a_filter_that_compiles_and_no_dead_entry() {
        for role in Role::ALL {
            assert!(Filter::of(role.calls()).is_ok(), "{role:?}");
            assert_eq!(dead_names(role.calls()), Vec::<&str>::new(), "{role:?}");
            assert_eq!(Role::named(role.name()), Some(role));
        }
    }

    #[test]
    fn every_entry_of_every_list_has_a_reason_and_every_list_a_role() {
        let lists = [COMMON, WRITING, NETWORK, ACCEPTING, KEEPING, REFUSING, SILENT, EDGE, WORKER, SERVER, NEVER];
        for list in lists.into_iter().chain([SYSTEM]) {
            assert_eq!(unreasoned(list), []);
        }
        let used: HashSet<&str> = Role::ALL.into_iter().flat_map(Role::lists).collect();
        assert!(lists.iter().all(|list| used.contains(list)));
    }

    #[test]
    fn every_file_of_the_system_is_of_a_kind_that_a_role_reads() {
        let read: Vec<&str> =
            Role::ALL.into_iter().flat_map(|role| role.reads()).flat_map(|kind| kind.paths()).collect();
        assert!(entries(SYSTEM).all(|entry| entry.words.len() == 2 && read.contains(&entry.words[1])));
    }

    #[test]
    fn no_role_is_allowed_what_takes_over_others() {
        let never =
            ["execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "mount", "bpf"];
        let more =
            ["io_uring_setup", "keyctl", "unshare", "setns", "kill", "pidfd_send_signal", "clone3", "memfd_create"];
        for role in Role::ALL {
            for entry in role.calls().filter(|entry| entry.words[0] == "allow") {
                assert!(
                    !entry.words.iter().any(|name| never.contains(name) || more.contains(name)),
                    "{role:?} {entry:?}"
                );
            }
        }
    }

    #[test]
    fn edge_custody_and_audit_make_no_socket_and_only_keepers_listen() {
        for role in Role::ALL {
            let allowed: HashSet<&str> =
                role.calls().filter(|entry| entry.words[0] == "allow").flat_map(|entry| entry.words).collect();
            assert_eq!(allowed.contains("socket"), role.dials(), "{role:?}");
            assert_eq!(allowed.contains("listen"), matches!(role, Role::Worker | Role::Gateway), "{role:?}");
        }
    }
}

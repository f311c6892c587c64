//! A built sandbox, as the worker holds it: the tool channel, the network's sockets, and the facts about it.
//! Dropping it closes the worker's descriptors and nothing else: `Spawner::destroy` ends it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::control::ControlStatus;

/// The port to which every outgoing TCP connection is redirected, on `127.0.0.1` and `[::1]` inside.
pub const REDIRECT_PORT: u16 = 15001;
/// The port of names, on `127.0.0.1` and `[::1]` inside; questions to any other address arrive here too.
pub const DNS_PORT: u16 = 53;
/// The port of the explicit proxy, on `127.0.0.1` inside.
pub const PROXY_PORT: u16 = 3128;
/// The netfilter log group in which refused packets are reported.
pub const REFUSED_GROUP: u16 = 1;

/// A running sandbox.
#[derive(Debug)]
pub struct Sandbox {
    /// The session it serves.
    pub session: String,
    /// The socket whose other end is descriptor 3 of the tool server. What comes out of it is hostile input.
    pub tools: OwnedFd,
    /// The inner sockets of its only exit.
    pub network: Network,
    /// What holds it, and how well.
    pub controls: Vec<ControlStatus>,
    /// Where it shows what is lent to be read and, as root, could not be closed to sockets and pipes as a whole.
    pub open: Vec<PathBuf>,
    /// Its first process, as the host numbers it.
    pub pid: u32,
    pub(crate) exit: watch::Receiver<Option<Exit>>,
}

impl Sandbox {
    /// A handle that tells when and how the sandbox ends, however it ends.
    pub fn ending(&self) -> Ending {
        Ending { exit: self.exit.clone() }
    }
}

/// Tells when a sandbox ended.
#[derive(Debug, Clone)]
pub struct Ending {
    exit: watch::Receiver<Option<Exit>>,
}

impl Ending {
    /// Waits for the end. Cancel-safe.
    pub async fn wait(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().expect("just waited until it is there"),
            Err(_gone) => Exit { how: "the spawner ended".into(), passed: None, last_words: String::new() },
        }
    }
}

/// How a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// In words: `exited with code 0`, `killed by signal 9`, `destroyed`.
    pub how: String,
    /// The limit that it had passed when the watchdog ended it; none when it ended otherwise.
    pub passed: Option<Limit>,
    /// The end of what its first process wrote to standard error. Hostile input.
    pub last_words: String,
}

/// A limit that the watchdog holds where the kernel does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Memory of all processes.
    Memory,
    /// What the files of the workspace take on disk.
    Disk,
}

impl Limit {
    /// In words, for whoever hears of the sandbox's end.
    pub(crate) fn how(self) -> &'static str {
        match self {
            Self::Memory => "ended by the watchdog: over its memory limit",
            Self::Disk => "ended by the watchdog: its files take more than its disk limit",
        }
    }
}

/// The sockets that a sandbox's network ends in, opened inside its network namespace and usable from outside. All are non-blocking.
#[derive(Debug)]
pub struct Network {
    /// Listens where every outgoing IPv4 TCP connection arrives; `SO_ORIGINAL_DST` gives the destination.
    pub redirect_v4: OwnedFd,
    /// The same for IPv6.
    pub redirect_v6: OwnedFd,
    /// Where names are asked over UDP.
    pub dns_udp_v4: OwnedFd,
    /// The same for IPv6.
    pub dns_udp_v6: OwnedFd,
    /// Where names are asked over TCP.
    pub dns_tcp_v4: OwnedFd,
    /// The same for IPv6.
    pub dns_tcp_v6: OwnedFd,
    /// Listens for programs that follow proxy variables.
    pub proxy: OwnedFd,
    /// A netlink socket that yields refused packets ([`crate::refused::parse`]); none where the kernel has no netfilter log.
    pub refused_udp: Option<OwnedFd>,
}

impl Network {
    /// How many descriptors there are without the log.
    pub(crate) const SOCKETS: usize = 7;

    /// Takes the descriptors in the order of the fields.
    pub(crate) fn from_descriptors(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        Some(Self {
            redirect_v4: descriptors.next()?,
            redirect_v6: descriptors.next()?,
            dns_udp_v4: descriptors.next()?,
            dns_udp_v6: descriptors.next()?,
            dns_tcp_v4: descriptors.next()?,
            dns_tcp_v6: descriptors.next()?,
            proxy: descriptors.next()?,
            refused_udp: descriptors.next(),
        })
    }
}

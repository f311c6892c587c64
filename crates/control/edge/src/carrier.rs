//! The edge as the control plane uses it, wherever it runs: in this process, or in one of its own.

use std::future::{Future, ready};
use std::pin::Pin;

use postern_tunnel::carry::Carry;

use crate::directory::{Directory, TunnelEntry};
use crate::edge::Edge;
use crate::status::TunnelStatus;

/// Something that is done when this ends.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What becomes of a tunnel's connections when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// They stay.
    Stay,
    /// Each ends, with all it carries.
    End,
}

/// An edge that follows a directory and carries streams. Whoever gives up on the answer to a change has changed it all the same.
pub trait Carrier: Carry {
    /// The tunnels that the caller's questions are answered from. Changes are made by [`Carrier::fill`] and [`Carrier::put`].
    fn directory(&self) -> &Directory;

    /// Forgets what it knows and takes these.
    fn fill(&self, entries: Vec<TunnelEntry>) -> Doing<'_, ()>;

    /// Takes one tunnel as it is now. When this ends the edge lets nobody in by what was before, and connections that end carry nothing more.
    fn put(&self, entry: TunnelEntry, connections: Connections) -> Doing<'_, ()>;

    /// The connections of this tunnel and its last errors.
    fn status<'a>(&'a self, tunnel: &'a str) -> Doing<'a, TunnelStatus>;
}

impl Carrier for Edge {
    fn directory(&self) -> &Directory {
        Self::directory(self)
    }

    fn fill(&self, entries: Vec<TunnelEntry>) -> Doing<'_, ()> {
        self.directory().replace_all(entries);
        Box::pin(ready(()))
    }

    fn put(&self, entry: TunnelEntry, connections: Connections) -> Doing<'_, ()> {
        let tunnel = entry.id.clone();
        self.directory().put(entry);
        match connections {
            Connections::Stay => {}
            Connections::End => self.sever(&tunnel),
        }
        Box::pin(ready(()))
    }

    fn status<'a>(&'a self, tunnel: &'a str) -> Doing<'a, TunnelStatus> {
        Box::pin(ready(Self::status(self, tunnel)))
    }
}

//! Where a sandbox's read-only system comes from, and whether packages can be installed over it for the session.

use super::lent::apart;
use super::{absolute, sensitive};
use crate::document::{Item, Table};
use std::path::PathBuf;

/// The system that a sandbox sees, read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum System {
    /// The host's `/usr` and the shipped list of its `/etc`, and these directories of the host at their own places.
    Host {
        /// Absolute paths, none sensitive by its name.
        directories: Vec<PathBuf>,
    },
    /// The root of an image that was unpacked on the host, in place of the host's `/usr` and `/etc`.
    Image(PathBuf),
}

impl Default for System {
    fn default() -> Self {
        Self::Host { directories: Vec::new() }
    }
}

/// Whether packages can be installed into the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packages {
    /// They cannot: it is read-only.
    #[default]
    None,
    /// For the session, in a layer of its own.
    Session,
}

impl System {
    /// `system = { directories = [...] }` or `system = { image = "..." }`.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        let Some(mut system) = table.table("system") else { return Self::default() };
        let image = system.string("image");
        let image = image.and_then(|image| lendable(&system, "image", image));
        let directories = system.strings("directories");
        if system.has("image") && directories.is_some() {
            let message = "system names an image or directories of the host, not both";
            system.reader().error(system.at(), message);
        }
        let directories = directories.unwrap_or_default();
        if directories.len() > MOST_DIRECTORIES {
            let message = format!("directories has more than {MOST_DIRECTORIES} entries");
            system.reader().error(system.at(), message);
        }
        let shown = |item| apart(&system, "directories", item, lendable(&system, "directories", item)?);
        let directories: Vec<PathBuf> = directories.into_iter().filter_map(shown).collect();
        image.map_or(Self::Host { directories }, Self::Image)
    }
}

impl Packages {
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        match table.string("packages") {
            None | Some(Item { value: "none", .. }) => Self::None,
            Some(Item { value: "session", .. }) => Self::Session,
            Some(Item { at, .. }) => {
                table.reader().error(at, "packages must be \"none\" or \"session\"");
                Self::None
            }
        }
    }
}

/// A path of the host that may be lent, as far as its name tells.
pub(super) fn lendable(table: &Table<'_>, key: &str, item: Item<&str>) -> Option<PathBuf> {
    let path = absolute(table, key, item)?;
    if let Some(reason) = sensitive::path(&path) {
        let message = format!("{key}: {} is never lent ({reason}); name what the agent may see alone", item.value);
        table.reader().error(item.at, message);
        return None;
    }
    Some(path)
}

/// Each is a mount in every sandbox of the zone.
const MOST_DIRECTORIES: usize = 32;

//! How safe a zone wants an action's record before the action.

use crate::document::{Item, Table};

/// From when on an action of the zone may follow its record. Stated here, kept by whoever writes records. The stricter is the greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditMode {
    /// From the write on.
    #[default]
    Written,
    /// From when the disk has it.
    Disk,
}

impl AuditMode {
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        match table.string("audit") {
            None | Some(Item { value: "written", .. }) => Self::Written,
            Some(Item { value: "disk", .. }) => Self::Disk,
            Some(Item { at, .. }) => {
                table.reader().error(at, "audit must be \"written\" or \"disk\"");
                Self::Disk
            }
        }
    }
}

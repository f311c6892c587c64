//! What of root's power a process keeps: the capabilities on a reviewed list, and none of the others in any set. An ordinary user has none to lose.

use rustix::io::{self, Errno};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use crate::list::entries;
use crate::role::Role;

/// Takes all capabilities but the role's from this thread, and from those it starts, for good.
///
/// # Errors
/// The kernel refuses it.
pub(crate) fn keep_those_of(role: Role) -> io::Result<()> {
    keep(kept(role))
}

/// The capabilities that a role keeps.
pub(crate) fn kept(role: Role) -> CapabilitySet {
    let own = entries(LIST).filter(|entry| entry.words.first() == Some(&role.name()));
    own.filter_map(|entry| CapabilitySet::from_name(entry.words.get(1)?)).collect()
}

fn keep(kept: CapabilitySet) -> io::Result<()> {
    let held = thread::capabilities(None)?;
    // While this thread still may: without the right to shrink it, the bounding set gives nothing to who executes nothing either.
    if held.effective.contains(CapabilitySet::SETPCAP) {
        CapabilitySet::all().difference(kept).iter().try_for_each(out_of_bounds)?;
    }
    thread::clear_ambient_capability_set()?;
    let sets = CapabilitySets {
        effective: held.effective & kept,
        permitted: held.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    thread::set_capabilities(None, sets)
}

fn out_of_bounds(capability: CapabilitySet) -> io::Result<()> {
    match thread::remove_capability_from_bounding_set(capability) {
        // Newer than this kernel.
        Err(Errno::INVAL) => Ok(()),
        other => other,
    }
}

const LIST: &str = include_str!("../data/capabilities.list");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::unreasoned;

    /// What a thread holds after this, in its own sets; and what of all is left within bounds.
    fn after(work: fn() -> io::Result<()>) -> (CapabilitySets, CapabilitySet) {
        let thread = std::thread::spawn(move || {
            work().unwrap();
            let within = |one: &CapabilitySet| thread::capability_is_in_bounding_set(*one).unwrap_or(false);
            (thread::capabilities(None).unwrap(), CapabilitySet::all().iter().filter(within).collect())
        });
        thread.join().unwrap()
    }

    #[test]
    fn every_entry_names_a_role_and_a_capability_and_has_a_reason() {
        assert_eq!(unreasoned(LIST), []);
        for entry in entries(LIST) {
            assert!(Role::named(entry.words[0]).is_some(), "{entry:?}");
            assert!(CapabilitySet::from_name(entry.words[1]).is_some() && entry.words.len() == 2, "{entry:?}");
        }
    }

    #[test]
    fn no_role_keeps_what_takes_over_a_machine() {
        use CapabilitySet as C;
        let mighty = C::SYS_ADMIN | C::SYS_PTRACE | C::SYS_MODULE | C::SYS_RAWIO | C::SETUID | C::SETGID | C::SETPCAP;
        let mighty = mighty | C::NET_ADMIN | C::NET_RAW | C::KILL | C::BPF | C::SYS_CHROOT | C::MKNOD | C::SETFCAP;
        assert!(Role::ALL.into_iter().all(|role| kept(role).intersection(mighty).is_empty()));
    }

    #[test]
    fn a_thread_is_left_with_what_is_kept_and_root_loses_the_rest() {
        let (before, bounds) = after(|| Ok(()));
        let (held, within) = after(|| keep(CapabilitySet::CHOWN));
        assert_eq!(held.effective, before.effective & CapabilitySet::CHOWN);
        assert_eq!(held.permitted, before.permitted & CapabilitySet::CHOWN);
        assert_eq!(held.inheritable, CapabilitySet::empty());
        let shrinks = before.effective.contains(CapabilitySet::SETPCAP);
        assert_eq!(within, if shrinks { bounds & CapabilitySet::CHOWN } else { bounds });
    }
}

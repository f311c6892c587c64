//! What the first process of a sandbox does to itself: two ordered lists of steps, each with its reason and its own error. The first list knows nothing
//! of a session and is done ahead of need; then the process waits for its order, whose session the second list serves. Then it is process 1.
//! It is a fresh exec of the image (see [`entrance`]), single-threaded, in the new namespaces.

mod along;
pub(crate) mod entrance;
mod filesystem;
mod identity;
mod image;
mod mounts;
mod network;
mod packages;
mod sources;

use std::borrow::Cow;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use postern_exec::Channel;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::check;
use crate::danger;
use crate::error::BuildError;
use crate::request::Request;
use crate::system::System;
use crate::wire::MESSAGE_LIMIT;
use crate::{TOOLS_DESCRIPTOR, sys};
use postern_confine::seccomp::Filter;

/// What the steps ahead of need work with.
struct Ahead {
    system: System,
    filter: Filter,
    /// To and from the spawner: orders and reports. Its end means that the spawner gave up.
    spawner: Channel,
    taken: sources::Taken,
    sockets: Vec<OwnedFd>,
}

/// What the steps of a session work with.
struct Inside {
    ahead: Ahead,
    request: Request,
    /// Whether a group holds memory; a softer limit is set otherwise.
    memory_held: bool,
    /// The other end of the tool channel.
    tools: OwnedFd,
    /// Takes what process 1 writes to its standard error.
    last_words: OwnedFd,
    /// The host's bundle of authorities, if it has one.
    authorities: File,
    /// The host's, or the image's that the zone names.
    chosen: System,
    borrowed: sources::Borrowed,
    new_root: Option<OwnedFd>,
    /// What becomes /tmp and /dev/shm.
    tmp: Option<OwnedFd>,
    shared: Option<OwnedFd>,
    proc: Option<OwnedFd>,
}

/// What the spawner tells the child, in this order.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order<'a> {
    /// What every sandbox is made of.
    Prepare { system: Cow<'a, System>, filter: Cow<'a, Filter> },
    /// This process is in its control group, if there is one.
    Entered,
    /// The user is mapped and the limits are set: serve this session. The tool channel's end, the pipe for last words and the host's authorities come
    /// with it.
    Serve { request: Box<Cow<'a, Request>>, memory_held: bool },
    /// The mounts that came with [`Report::Lent`] are closed to writing, as far as this kernel and their file systems know how.
    Closed,
}

/// What the child tells the spawner.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// As root: mounts come with this that are lent to be read, and are to be closed to writing before anything of the session runs.
    Lent,
    /// Where no group holds memory: what shows that of no process comes with this (see [`crate::watchdog::unseen`]).
    Memory,
    /// Everything stands, and this is process 1; the sockets come with this, in the order of `Network`.
    Ready,
    Failed(BuildError),
}

/// What a step ahead of need does.
type AheadRun = fn(&mut Ahead) -> Result<(), Failure>;
/// What a step of a session does.
type Run = fn(&mut Inside) -> Result<(), Failure>;

/// One step.
struct Step<R> {
    name: &'static str,
    /// Why it is there. Read by people and by the test that no step lacks one.
    #[cfg_attr(not(test), expect(dead_code, reason = "written for the reader of this list"))]
    reason: &'static str,
    /// What to do when it fails.
    fix: &'static str,
    run: R,
}

/// Why a step failed.
pub(crate) struct Failure {
    doing: String,
    errno: Option<Errno>,
    /// What mends this one, where it is not what mends the step.
    fix: Option<&'static str>,
}

impl Failure {
    /// A failure that is not a system call's.
    pub(crate) fn other(doing: impl Into<String>) -> Self {
        Self { doing: doing.into(), errno: None, fix: None }
    }

    /// The same, with what mends it.
    fn mended(self, fix: &'static str) -> Self {
        Self { fix: Some(fix), ..self }
    }

    /// The same, said of a path.
    fn at(self, path: &std::path::Path) -> Self {
        Self { doing: format!("{}: {}", path.display(), self.doing), ..self }
    }
}

/// Says what was being done when a system call failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|errno| Failure { doing: what(), errno: Some(errno), fix: None })
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)).doing(what)
    }
}

const KERNEL: &str = "boot a kernel from 5.12 on";
const CONTAINER: &str =
    "allow mounts in user namespaces: outside a container, or in one with seccomp and AppArmor unconfined";
const OWN_DEFECT: &str = "report this as a defect";

/// The steps that no session changes, done ahead of need: they are the slow ones. As root nobody is mapped yet, so no file can be made.
const AHEAD: &[Step<AheadRun>] = &[
    Step {
        name: "be unreadable",
        reason: "the image's mode alone does not see to it where its owner is mapped",
        fix: OWN_DEFECT,
        run: identity::be_unreadable_ahead,
    },
    Step {
        name: "keep mounts private",
        reason: "nothing mounted here may appear outside, and nothing mounted outside later may appear here",
        fix: CONTAINER,
        run: mounts::keep_private,
    },
    Step {
        name: "take the system",
        reason: "the host's /usr and devices are opened by whoever may, before this becomes the agent, and before they are out of reach",
        fix: "make the named path readable for the user that runs postern",
        run: sources::take_system,
    },
    Step {
        name: "name the host",
        reason: "the machine's name is nobody's business inside",
        fix: OWN_DEFECT,
        run: identity::name_host,
    },
    Step { name: "bring loopback up", reason: "the only link there is", fix: OWN_DEFECT, run: network::loopback },
    Step {
        name: "route everything to loopback",
        reason: "every connection stays inside until the redirect takes it",
        fix: "boot a kernel with IPv4 and IPv6 (no ipv6.disable=1)",
        run: network::routes,
    },
    Step {
        name: "open the exit",
        reason: "sockets inside that are answered outside: no link to the host is needed",
        fix: "boot a kernel with IPv4 and IPv6 (no ipv6.disable=1)",
        run: network::sockets,
    },
    Step {
        name: "set packet rules",
        reason: "redirect TCP, answer names, refuse the rest, whatever programs do with proxy variables",
        fix: "boot a kernel with CONFIG_NF_TABLES, CONFIG_NFT_REDIR, CONFIG_NFT_REJECT and CONFIG_NFT_CT",
        run: network::rules,
    },
    Step {
        name: "leave programs no capability",
        reason: "no exec from here on gives any, whatever the program's file says",
        fix: OWN_DEFECT,
        run: identity::empty_bounding_set,
    },
    Step {
        name: "own the view of control groups",
        reason: "the host's hierarchy names other sandboxes; made only when the spawner has moved this process into its group, which takes milliseconds and is done meanwhile",
        fix: CONTAINER,
        run: identity::own_cgroup_view,
    },
];

/// The steps of a session, in the order that matters: what each needs from the host or from capabilities comes before the step that takes it away.
const STEPS: &[Step<Run>] = &[
    Step {
        name: "take what the request names",
        reason: "workspace, mounts, devices and the image are opened by whoever may, before this becomes the agent, and before it is out of reach",
        fix: "make the named path readable for the user that runs postern",
        run: sources::take_requested,
    },
    Step {
        name: "become the agent",
        reason: "files made from here on belong to the agent; no host user is left in this process",
        fix: OWN_DEFECT,
        run: identity::become_agent,
    },
    Step {
        name: "still die with the spawner",
        reason: "the change of user took the death signal away, and a sandbox must not outlive whoever can end it",
        fix: OWN_DEFECT,
        run: identity::die_with_spawner,
    },
    Step {
        name: "still be unreadable",
        reason: "the change of user may have made this process readable, and what it hears of a session is nobody's business",
        fix: OWN_DEFECT,
        run: identity::be_unreadable,
    },
    Step {
        name: "make a new root",
        reason: "an empty file system in memory: only what is put in is there",
        fix: CONTAINER,
        run: filesystem::new_root,
    },
    Step {
        name: "make /proc",
        reason: "of the new process namespace, so that no other process can be named; the kernel wants to see the host's, so it comes before that is gone",
        fix: check::PROC_FIX,
        run: filesystem::make_proc,
    },
    Step {
        name: "show what lies in memory",
        reason: "where no group holds memory the spawner counts it, and neither files in memory nor shared segments are any process's; nothing of the session runs yet that could show something else",
        fix: OWN_DEFECT,
        run: filesystem::show_memory,
    },
    Step {
        name: "enter the new root",
        reason: "the old one is unmounted: from here on no path, and no link in what was lent, leads to the host",
        fix: OWN_DEFECT,
        run: filesystem::enter_root,
    },
    Step {
        name: "lay out directories",
        reason: "mount points and links that programs expect",
        fix: OWN_DEFECT,
        run: filesystem::lay_out,
    },
    Step {
        name: "write /etc",
        reason: "certificates are the session's; names and resolver are generated, the rest is a reviewed list or the image's",
        fix: OWN_DEFECT,
        run: filesystem::write_etc,
    },
    Step {
        name: "mount the system",
        reason: "/usr and the listed parts of /etc, or the image's directories, read-only, no set-user-id, no devices",
        fix: KERNEL,
        run: filesystem::mount_system,
    },
    Step {
        name: "mount the layer of packages",
        reason: "what is installed during the session lies over /usr and never in it",
        fix: "boot a kernel from 5.11 on with CONFIG_OVERLAY_FS, with nothing mounted below /usr and the data directory on ext4, xfs or btrfs, or set packages = \"none\"",
        run: packages::mount_layer,
    },
    Step {
        name: "mount devices",
        reason: "the six that every program may use, those the zone names, terminals of its own, shared memory",
        fix: CONTAINER,
        run: filesystem::mount_devices,
    },
    Step {
        name: "mount /tmp",
        reason: "scratch space that counts as memory and has an end",
        fix: CONTAINER,
        run: filesystem::mount_tmp,
    },
    Step {
        name: "mount the workspace",
        reason: "the only place whose files stay",
        fix: "look at the workspace's file system",
        run: filesystem::mount_workspace,
    },
    Step {
        name: "mount what the zone lends",
        reason: "directories of the host that the zone names",
        fix: "look at `mounts` in the zone",
        run: filesystem::mount_lent,
    },
    Step {
        name: "mask /proc",
        reason: "parts of it speak of the machine and of others",
        fix: OWN_DEFECT,
        run: filesystem::mask_proc,
    },
    Step {
        name: "make the root read-only",
        reason: "nobody may plant a program or a setting there",
        fix: OWN_DEFECT,
        run: filesystem::seal_root,
    },
    Step {
        name: "limit resources",
        reason: "what groups do not hold, and what they do not know: core files, open files, file sizes",
        fix: OWN_DEFECT,
        run: identity::limit_resources,
    },
    Step {
        name: "drop capabilities",
        reason: "mounts, routes and rules stand: nothing may change them any more",
        fix: OWN_DEFECT,
        run: identity::drop_capabilities,
    },
    Step {
        name: "arrange descriptors",
        reason: "process 1 has four: nothing, words of its own, and the tool channel",
        fix: OWN_DEFECT,
        run: identity::arrange_descriptors,
    },
    Step {
        name: "set the environment",
        reason: "commands have what process 1 has: a closed list, and what the zone adds",
        fix: OWN_DEFECT,
        run: identity::set_environment,
    },
    Step {
        name: "enter the Landlock domain",
        reason: "a second wall behind the mounts",
        fix: OWN_DEFECT,
        run: identity::enter_domain,
    },
    Step {
        name: "filter system calls",
        reason: "last, because the steps before need what it forbids",
        fix: "allow seccomp filters: CONFIG_SECCOMP_FILTER",
        run: identity::filter_calls,
    },
];

/// In the image: prepares, waits for the order, builds from inside and returns as process 1, with nothing left but the tool channel. Ends the process
/// when that cannot be done.
pub(crate) fn first_process(spawner: OwnedFd) -> OwnedFd {
    // The spawner gave up where nothing is heard: nobody is left to tell.
    let mut ahead = Ahead::prepared(Channel::new(spawner)).unwrap_or_else(|_| sys::exit_now(1));
    for step in AHEAD.iter().filter(|step| !danger::skips(step.name)) {
        (step.run)(&mut ahead).unwrap_or_else(|failure| fail(&ahead.spawner, step.name, step.fix, failure));
    }
    let mut inside = Inside::ordered(ahead).unwrap_or_else(|_| sys::exit_now(1));
    for step in STEPS.iter().filter(|step| !danger::skips(step.name)) {
        (step.run)(&mut inside).unwrap_or_else(|failure| fail(&inside.ahead.spawner, step.name, step.fix, failure));
    }
    let sockets: Vec<_> = inside.ahead.sockets.iter().map(AsFd::as_fd).collect();
    if inside.ahead.spawner.send(&Report::Ready, &sockets).is_err() {
        sys::exit_now(1);
    }
    inside.leave()
}

fn fail(spawner: &Channel, step: &str, fix: &str, failure: Failure) -> ! {
    let fix = failure.fix.unwrap_or(fix);
    let error = match failure.errno {
        Some(errno) => BuildError::system(step, &failure.doing, errno, fix),
        None => BuildError::refused(step, failure.doing, fix),
    };
    // Nobody is left to tell when this fails: the spawner sees the end.
    let _gone = spawner.send(&Report::Failed(error), &[]);
    sys::exit_now(1)
}

/// Waits for the spawner's next word.
fn hear(spawner: &Channel) -> Result<(Order<'static>, Vec<OwnedFd>), Failure> {
    match spawner.receive(MESSAGE_LIMIT) {
        Ok(Some(heard)) => Ok(heard),
        Ok(None) => Err(Failure::other("the spawner gave up")),
        Err(error) => Err(Failure::other(error.to_string())),
    }
}

impl Ahead {
    /// Waits for what every sandbox is made of.
    fn prepared(spawner: Channel) -> Result<Self, Failure> {
        let (Order::Prepare { system, filter }, _) = hear(&spawner)? else {
            return Err(Failure::other("the spawner left out the preparation"));
        };
        let (system, filter) = (system.into_owned(), filter.into_owned());
        Ok(Self { system, filter, spawner, taken: sources::Taken::default(), sockets: Vec::new() })
    }
}

impl Inside {
    /// Waits for the order.
    fn ordered(mut ahead: Ahead) -> Result<Self, Failure> {
        let (Order::Serve { request, memory_held }, descriptors) = hear(&ahead.spawner)? else {
            return Err(Failure::other("the spawner repeats itself"));
        };
        let [tools, last_words, authorities] = <[OwnedFd; 3]>::try_from(descriptors)
            .map_err(|_| Failure::other("the order came without its three descriptors"))?;
        Ok(Self {
            chosen: std::mem::take(&mut ahead.system),
            ahead,
            request: request.into_owned(),
            memory_held,
            tools,
            last_words,
            authorities: authorities.into(),
            borrowed: sources::Borrowed::default(),
            new_root: None,
            tmp: None,
            shared: None,
            proc: None,
        })
    }

    /// Lets go of everything that the steps worked with.
    fn leave(self) -> OwnedFd {
        drop(self);
        // Nothing is open any more but what was arranged. It is closed all the same: a descriptor of the host would be a way out.
        let closed = sys::close_all_above(TOOLS_DESCRIPTOR);
        closed.ok().and_then(|()| sys::take_inherited(TOOLS_DESCRIPTOR)).unwrap_or_else(|| sys::exit_now(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, reason and fix of every step, in order.
    fn steps() -> Vec<(&'static str, &'static str, &'static str)> {
        let entrance = entrance::STEPS.iter().map(|step| (step.name, step.reason, step.fix));
        let ahead = AHEAD.iter().map(|step| (step.name, step.reason, step.fix));
        entrance.chain(ahead).chain(STEPS.iter().map(|step| (step.name, step.reason, step.fix))).collect()
    }

    #[test]
    fn every_step_has_a_name_of_its_own_a_reason_and_a_fix() {
        let mut names: Vec<_> = steps().iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), steps().len());
        assert!(steps().iter().all(|(_, reason, fix)| !reason.is_empty() && !fix.is_empty()));
    }

    #[test]
    fn what_takes_power_away_comes_after_what_needs_it() {
        let at = |name: &str| steps().iter().position(|(step, ..)| *step == name).expect("is a step");
        assert_eq!(at("die with the spawner"), 0, "whatever waits must not wait for ever");
        assert!(at("keep mounts private") < at("take the system"));
        assert!(at("take what the request names") < at("become the agent"));
        assert!(at("become the agent") < at("still die with the spawner"), "a change of user clears the death signal");
        assert!(at("become the agent") < at("still be unreadable"), "and may make the process readable");
        assert!(at("own the clocks") < at("become the image"), "what the loader reads of clocks is the sandbox's");
        assert!(at("keep capabilities") < at("become the image"), "an exec takes them away");
        assert!(at("make /proc") < at("enter the new root"), "the kernel compares it with the host's");
        for step in ["lay out directories", "mount the system", "mount the workspace", "mount what the zone lends"] {
            assert!(at("enter the new root") < at(step), "a link in what is mounted must not lead to the host: {step}");
        }
        assert!(at("set packet rules") < at("drop capabilities"));
        assert!(at("own the view of control groups") < at("drop capabilities"));
        assert!(at("drop capabilities") < at("filter system calls"));
        assert_eq!(at("filter system calls"), steps().len() - 1);
    }
}

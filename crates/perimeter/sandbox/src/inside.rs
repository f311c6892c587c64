//! What the new process does to itself between clone and exec: two ordered lists of steps, each with its reason and its own error. The first list
//! knows nothing of a session and is done ahead of need; then the process waits for its order, whose session the second list serves.
//! Everything here runs in the child, single-threaded, in the new namespaces; it never returns to the spawner's loop.

mod filesystem;
mod identity;
mod image;
mod mounts;
mod network;
mod packages;
mod sources;

use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};

use postern_exec::Channel;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::builder::Tools;
use crate::check;
use crate::clocks::Clocks;
use crate::danger;
use crate::error::BuildError;
use crate::request::Request;
use crate::system::System;
use crate::wire::MESSAGE_LIMIT;
use postern_confine::seccomp::Filter;

/// What the steps ahead of need work with.
pub(crate) struct Ahead<'a> {
    pub(crate) system: &'a System,
    pub(crate) filter: &'a Filter,
    pub(crate) image: &'a OwnedFd,
    pub(crate) clocks: Clocks,
    /// To and from the spawner: orders and reports. Its end means that the spawner gave up.
    pub(crate) spawner: Channel,
    pub(crate) taken: sources::Taken,
    pub(crate) sockets: Vec<OwnedFd>,
}

/// What the steps of a session work with.
pub(crate) struct Inside<'a> {
    ahead: Ahead<'a>,
    request: Request,
    /// Whether a group holds memory; a softer limit is set otherwise.
    memory_held: bool,
    /// The other end of the tool channel.
    tools: OwnedFd,
    /// Takes what process 1 writes to its standard error.
    last_words: OwnedFd,
    /// The host's, or the image's that the zone names.
    chosen: Cow<'a, System>,
    borrowed: sources::Borrowed,
    new_root: Option<OwnedFd>,
    proc: Option<OwnedFd>,
}

/// What the spawner tells the child, in this order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order<'a> {
    /// This process is in its control group, if there is one.
    Entered,
    /// The user is mapped and the limits are set: serve this session. The tool channel's end and the pipe for last words come with it.
    Serve { request: Box<Cow<'a, Request>>, memory_held: bool },
}

/// What the child tells the spawner.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// Everything stands; the sockets come with this, in the order of `Network`. Exec follows: when it succeeds, the channel closes.
    Ready,
    Failed(BuildError),
}

/// What a step ahead of need does.
type AheadRun = fn(&mut Ahead<'_>) -> Result<(), Failure>;
/// What a step of a session does.
type Run = fn(&mut Inside<'_>) -> Result<(), Failure>;

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
}

impl Failure {
    /// A failure that is not a system call's.
    pub(crate) fn other(doing: impl Into<String>) -> Self {
        Self { doing: doing.into(), errno: None }
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
        self.map_err(|errno| Failure { doing: what(), errno: Some(errno) })
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

/// The steps that no session changes, done ahead of need: they are the slow ones. Nobody is mapped yet, so no file can be made.
const AHEAD: &[Step<AheadRun>] = &[
    Step {
        name: "die with the spawner",
        reason: "nothing may outlive whoever can end it",
        fix: OWN_DEFECT,
        run: identity::die_with_spawner_unordered,
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
        name: "own the clocks",
        reason: "how long the machine runs tells it from others; where it cannot be done, `timens` is reported missing",
        fix: OWN_DEFECT,
        run: identity::own_clocks,
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
        reason: "names, resolver and certificates are generated; the rest is a reviewed list, or the image's",
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

/// Prepares, waits for the order, builds from inside and becomes process 1. Never returns.
pub(crate) fn run(mut ahead: Ahead<'_>) -> ! {
    for step in AHEAD.iter().filter(|step| !danger::skips(step.name)) {
        if let Err(failure) = (step.run)(&mut ahead) {
            fail(&ahead.spawner, step.name, step.fix, failure);
        }
    }
    let Ok(mut inside) = Inside::ordered(ahead) else {
        // The spawner gave up: nobody is left to tell.
        crate::sys::exit_now(1)
    };
    for step in STEPS.iter().filter(|step| !danger::skips(step.name)) {
        if let Err(failure) = (step.run)(&mut inside) {
            fail(&inside.ahead.spawner, step.name, step.fix, failure);
        }
    }
    let sockets: Vec<_> = inside.ahead.sockets.iter().map(AsFd::as_fd).collect();
    if inside.ahead.spawner.send(&Report::Ready, &sockets).is_err() {
        crate::sys::exit_now(1);
    }
    let errno = identity::become_tool_server(&inside);
    let failure = Failure { doing: "execute the copy of this program".into(), errno: Some(errno) };
    fail(
        &inside.ahead.spawner,
        "become the tool server",
        "look whether /usr holds the libraries this binary is linked with",
        failure,
    )
}

fn fail(spawner: &Channel, step: &str, fix: &str, failure: Failure) -> ! {
    let error = match failure.errno {
        Some(errno) => BuildError::system(step, &failure.doing, errno, fix),
        None => BuildError::refused(step, failure.doing, fix),
    };
    // Nobody is left to tell when this fails: the spawner sees the end.
    let _gone = spawner.send(&Report::Failed(error), &[]);
    crate::sys::exit_now(1)
}

impl<'a> Ahead<'a> {
    pub(crate) fn new(tools: &'a Tools, spawner: Channel) -> Self {
        let Tools { system, filter, image, clocks, .. } = tools;
        Self { system, filter, image, clocks: *clocks, spawner, taken: sources::Taken::default(), sockets: Vec::new() }
    }

    /// Waits for the spawner's next word.
    fn hear(&self) -> Result<(Order<'static>, Vec<OwnedFd>), Failure> {
        match self.spawner.receive(MESSAGE_LIMIT) {
            Ok(Some(heard)) => Ok(heard),
            Ok(None) => Err(Failure::other("the spawner gave up")),
            Err(error) => Err(Failure::other(error.to_string())),
        }
    }
}

impl<'a> Inside<'a> {
    /// Waits for the order.
    fn ordered(ahead: Ahead<'a>) -> Result<Self, Failure> {
        let (Order::Serve { request, memory_held }, descriptors) = ahead.hear()? else {
            return Err(Failure::other("the spawner repeats itself"));
        };
        let [tools, last_words] = <[OwnedFd; 2]>::try_from(descriptors)
            .map_err(|_| Failure::other("the order came without its two descriptors"))?;
        let (chosen, borrowed) = (Cow::Borrowed(ahead.system), sources::Borrowed::default());
        let request = Cow::into_owned(*request);
        Ok(Self { ahead, request, memory_held, tools, last_words, chosen, borrowed, new_root: None, proc: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, reason and fix of every step, in order.
    fn steps() -> Vec<(&'static str, &'static str, &'static str)> {
        let ahead = AHEAD.iter().map(|step| (step.name, step.reason, step.fix));
        ahead.chain(STEPS.iter().map(|step| (step.name, step.reason, step.fix))).collect()
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

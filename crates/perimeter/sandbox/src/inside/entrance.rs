//! What the new process does between clone and exec, while it is still a copy of the spawner: as little as can be. Ordered steps, like those that follow
//! in the image, and the last becomes the image.

use std::os::fd::{AsFd, OwnedFd};

use postern_exec::Channel;

use super::{CONTAINER, Doing, Failure, OWN_DEFECT, Step, fail, identity};
use crate::builder::Tools;
use crate::clocks::Clocks;
use crate::request::Builder;
use crate::{SPAWNER_DESCRIPTOR, TOOLS_NAME, danger, sys, user_map};

/// What these steps work with.
pub(crate) struct Entrance<'a> {
    builder: Builder,
    pub(super) clocks: Clocks,
    image: &'a OwnedFd,
    spawner: Channel,
}

/// What one of these steps does.
type Run = fn(&mut Entrance<'_>) -> Result<(), Failure>;

/// The steps, in the order that matters.
pub(super) const STEPS: &[Step<Run>] = &[
    Step {
        name: "die with the spawner",
        reason: "nothing may outlive whoever can end it",
        fix: OWN_DEFECT,
        run: identity::die_with_spawner_unordered,
    },
    Step {
        name: "map the only user there is",
        reason: "an ordinary user has one to give, so the map is known; root gives each session its own later. The image is unreadable, and its maps belong to root",
        fix: user_map::FIX,
        run: map_ordinary_user,
    },
    Step {
        name: "own the clocks",
        reason: "how long the machine runs tells it from others; where it cannot be done, `timens` is reported missing",
        fix: OWN_DEFECT,
        run: identity::own_clocks,
    },
    Step {
        name: "keep capabilities",
        reason: "the steps in the image need what a new user namespace gives, and an exec takes it away",
        fix: CONTAINER,
        run: identity::keep_capabilities,
    },
    Step {
        name: "become the image",
        reason: "nothing of the spawner's memory goes in, and the loader's work is done before a session waits for it",
        fix: "look whether the libraries this binary is linked with are still there",
        run: become_image,
    },
];

/// Never returns.
pub(crate) fn enter(tools: &Tools, spawner: Channel) -> ! {
    let Tools { builder, clocks, image, .. } = tools;
    let mut entrance = Entrance { builder: *builder, clocks: *clocks, image, spawner };
    for step in STEPS.iter().filter(|step| !danger::skips(step.name)) {
        (step.run)(&mut entrance).unwrap_or_else(|failure| fail(&entrance.spawner, step.name, step.fix, failure));
    }
    sys::exit_now(1)
}

/// Step: the map, written by the process itself.
fn map_ordinary_user(entrance: &mut Entrance<'_>) -> Result<(), Failure> {
    let Builder { uid, gid } = entrance.builder;
    if entrance.builder.is_root() { Ok(()) } else { user_map::map_own(uid, gid).doing(|| "write the maps".into()) }
}

/// Step: the exec. Its environment is empty: what a session has is set later.
fn become_image(entrance: &mut Entrance<'_>) -> Result<(), Failure> {
    // Standard input is nothing already, since everything of the spawner's was closed.
    for number in 1..SPAWNER_DESCRIPTOR {
        sys::place(rustix::stdio::stdin(), number).doing(|| format!("place descriptor {number}"))?;
    }
    sys::place(entrance.spawner.as_fd(), SPAWNER_DESCRIPTOR).doing(|| "place the spawner's channel".into())?;
    sys::close_at_exec_from(SPAWNER_DESCRIPTOR.unsigned_abs() + 1).doing(|| "close the rest at exec".into())?;
    let inherited = postern_danger::inherited().into_iter();
    let environment: Vec<_> = inherited.map(|(name, value)| sys::c_string(&format!("{name}={value}"))).collect();
    Err(sys::execute(entrance.image.as_fd(), &[sys::c_string(TOOLS_NAME)], &environment))
        .doing(|| "execute the copy of this program".into())
}

//! Starting a role of this very binary, and the first steps of the role itself.
//! A role gets: its name, the level and perhaps the format of its log as the arguments, a socket as descriptor 0, standard error for both outputs, PATH and LANG and nothing else, a process
//! group of its own (a terminal's Ctrl-C reaches the supervisor alone), and its configuration as the first frame, with any descriptors.
//! **The rule for its end**: a role ends when its descriptor 0 closes, which the kernel does when the starter dies, however it dies. (A parent-death
//! signal would fire when the *thread* that forked ends, and worker threads of a runtime do.)

mod child;
mod starter;
mod supervisor;

pub use child::{Child, First, StartError, first_message, first_message_blocking, start, start_and_wait};
pub use starter::{ROLE as STARTER, Roles, Starter, log_as, starter_main};
pub use supervisor::{Running, Supervisor};

/// The longest configuration message a role accepts: configuration text, certificates and an environment snapshot fit.
pub const FIRST_MESSAGE_LIMIT: usize = 8 << 20;
/// `PATH` of every role.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `LANG` of every role.
pub const LANG: &str = "C.UTF-8";

//! The tool server: pid 1 of a sandbox. Reads calls from descriptor 3, runs them one after the other, answers, and ends with its channel.
//! Holds no secret, opens no socket, and needs no runtime.

use std::path::PathBuf;
use std::process::ExitCode;

use postern_exec::{Channel, ChannelError};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::toolbox::Toolbox;
use crate::wire::{Access, Configuration, FRAME_LIMIT_BYTES, Request, Root};

const WORKDIR: &str = "/workspace";
/// What a session was given, and where it puts what its user shall get.
const ROOTS: [(&str, Access); 4] = [
    ("/mnt/session/uploads", Access::Read),
    ("/mnt/session/skills", Access::Read),
    ("/mnt/session/outputs", Access::ReadWrite),
    ("/mnt/memory", Access::ReadWrite),
];

/// How long nothing must come before the server counts as idle: a session waits between two turns for minutes and more.
const REST_AFTER: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Runs the server until the worker closes the channel; as pid 1 its end is the end of every process of the sandbox.
pub fn main() -> ExitCode {
    let Some(socket) = postern_sandbox::tool_channel() else {
        return ExitCode::from(postern_sandbox::NO_CHANNEL);
    };
    let root = |(path, access): (&str, Access)| Root { path: path.into(), access };
    let mut toolbox = Toolbox::new(&Configuration { workdir: PathBuf::from(WORKDIR), roots: ROOTS.map(root).to_vec() });
    match serve(&Channel::new(socket), &mut toolbox) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Serves one channel to its end.
///
/// # Errors
/// The peer broke the framing or the channel failed.
pub fn serve(channel: &Channel, toolbox: &mut Toolbox) -> Result<(), ChannelError> {
    loop {
        rest_until_asked(channel);
        let Some((request, _)) = channel.receive::<Request>(FRAME_LIMIT_BYTES)? else { return Ok(()) };
        match request {
            Request::Configure { configure } => toolbox.configure(&configure),
            Request::Call(call) => channel.send(&toolbox.call(&call), &[])?,
        }
    }
}

/// Gives back memory where nothing is asked for a while. Whatever the wait comes to, the channel is read next.
fn rest_until_asked(channel: &Channel) {
    let mut polled = [PollFd::new(channel, PollFlags::IN)];
    if matches!(rustix::event::poll(&mut polled, Some(&REST_AFTER)), Ok(0)) {
        postern_sandbox::rest();
    }
}

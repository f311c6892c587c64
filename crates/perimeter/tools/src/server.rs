//! The tool server: pid 1 of a sandbox. Reads calls from descriptor 3, runs them one after the other, answers, and ends with its channel.
//! Holds no secret, opens no socket, and needs no runtime.

use std::path::PathBuf;
use std::process::ExitCode;

use postern_exec::{Channel, ChannelError};

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
    while let Some((request, _)) = channel.receive::<Request>(FRAME_LIMIT_BYTES)? {
        match request {
            Request::Configure { configure } => toolbox.configure(&configure),
            Request::Call(call) => channel.send(&toolbox.call(&call), &[])?,
        }
    }
    Ok(())
}

//! The two halves of a start: [`start`] in the parent, [`first_message`] in the child.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use super::{FIRST_MESSAGE_LIMIT, LANG, PATH};
use crate::asynchronous;
use crate::frame::ChannelError;
use crate::{Channel, socket};

/// Why a role did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program could not be executed.
    #[error("execute {} as role {role}", exe.display())]
    Execute {
        /// The role's name.
        role: &'static str,
        /// The program.
        exe: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket between the two could not be made.
    #[error("make the socket of a role")]
    Socket(#[source] io::Error),
    /// The configuration did not cross.
    #[error("hand a role its configuration")]
    Configure(#[source] ChannelError),
    /// This process was not started as a role: nothing came on descriptor 0.
    #[error("no configuration came on descriptor 0; roles are started by `postern up`, not by hand")]
    NotARole,
}

/// A role that was started. Dropping it does not end it: closing its channel does.
#[derive(Debug)]
pub struct Child {
    role: &'static str,
    process: tokio::process::Child,
    id: u32,
}

impl Child {
    /// The role's name.
    pub fn role(&self) -> &'static str {
        self.role
    }

    /// Its process id, valid until it was waited for.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Waits for its end. Cancel-safe.
    ///
    /// # Errors
    /// The system's.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Sends SIGKILL; [`Child::wait`] still has to be called.
    ///
    /// # Errors
    /// The system's, when it ended already.
    pub fn kill(&mut self) -> io::Result<()> {
        self.process.start_kill()
    }

    /// Waits up to `patience` for a child whose channel was closed, then kills it.
    ///
    /// # Errors
    /// The system's.
    pub async fn end(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        if let Ok(status) = tokio::time::timeout(patience, self.wait()).await {
            return status;
        }
        tracing::warn!(role = self.role, id = self.id, "a role did not end in time and is killed");
        self.kill()?;
        self.wait().await
    }
}

/// Starts `exe ROLE` and sends it the configuration with the descriptors. Returns when the configuration is handed to the kernel or,
/// for one larger than a socket's buffer, when the role took it. Must be called inside a runtime.
///
/// # Errors
/// [`StartError`].
pub fn start<C: Serialize>(
    role: &'static str,
    configuration: &C,
    exe: &Path,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(Child, asynchronous::Channel), StartError> {
    let (child, channel) = launch(role, exe)?;
    channel.send(configuration, descriptors).map_err(StartError::Configure)?;
    let channel = asynchronous::Channel::new(channel.into_socket()).map_err(StartError::Socket)?;
    Ok((child, channel))
}

/// As [`start`], then waits for the role's first message: its word that it is ready, or why not.
///
/// # Errors
/// [`StartError`]; a role that closes without a word is [`StartError::Configure`] with [`ChannelError::Truncated`].
pub async fn start_and_wait<C: Serialize, R: DeserializeOwned>(
    role: &'static str,
    configuration: &C,
    exe: &Path,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(Child, asynchronous::Channel, R), StartError> {
    let (child, mut channel) = start(role, configuration, exe, descriptors)?;
    match channel.receive(FIRST_MESSAGE_LIMIT).await.map_err(StartError::Configure)? {
        Some((ready, _)) => Ok((child, channel, ready)),
        None => Err(StartError::Configure(ChannelError::Truncated { missing: crate::frame::HEADER })),
    }
}

/// In the role: its configuration, the descriptors that came with it, and the channel. Must be called inside a runtime, once, at the start.
///
/// # Errors
/// [`StartError`].
pub fn first_message<C: DeserializeOwned>() -> Result<(C, Vec<OwnedFd>, asynchronous::Channel), StartError> {
    let (configuration, descriptors, channel) = first_message_blocking()?;
    let channel = asynchronous::Channel::new(channel.into_socket()).map_err(StartError::Socket)?;
    Ok((configuration, descriptors, channel))
}

/// As [`first_message`], for a role without a runtime.
///
/// # Errors
/// [`StartError`].
pub fn first_message_blocking<C: DeserializeOwned>() -> Result<(C, Vec<OwnedFd>, Channel), StartError> {
    if rustix::net::sockopt::socket_type(io::stdin().as_fd()).is_err() {
        return Err(StartError::NotARole);
    }
    let channel = Channel::stdin().map_err(StartError::Socket)?;
    let first = channel.receive(FIRST_MESSAGE_LIMIT).map_err(StartError::Configure)?;
    let (configuration, descriptors) = first.ok_or(StartError::NotARole)?;
    Ok((configuration, descriptors, channel))
}

fn launch(role: &'static str, exe: &Path) -> Result<(Child, Channel), StartError> {
    let (ours, theirs) = socket::pair().map_err(StartError::Socket)?;
    rustix::net::sockopt::set_socket_timeout(&ours, rustix::net::sockopt::Timeout::Send, Some(CONFIGURE_WITHIN))
        .map_err(|errno| StartError::Socket(errno.into()))?;
    let output = io::stderr().as_fd().try_clone_to_owned().map_err(StartError::Socket)?;
    #[expect(clippy::disallowed_methods, reason = "roles of our own are started here, and only here")]
    let mut command = std::process::Command::new(exe);
    command.arg(role).env_clear().env("PATH", PATH).env("LANG", LANG);
    command.stdin(Stdio::from(theirs)).stdout(Stdio::from(output)).stderr(Stdio::inherit());
    command.process_group(0);
    let process = tokio::process::Command::from(command).spawn().map_err(|source| StartError::Execute {
        role,
        exe: exe.to_owned(),
        source,
    })?;
    let id = process.id().unwrap_or_default();
    Ok((Child { role, process, id }, Channel::new(ours)))
}

/// A role that does not take its configuration does not block its starter for ever.
const CONFIGURE_WITHIN: Duration = Duration::from_secs(10);

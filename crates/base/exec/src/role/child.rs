//! The two halves of a start: [`start`] in the parent, [`First`] in the child.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::FIRST_MESSAGE_LIMIT;
use super::starter::{Executed, Starter};
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
    /// The starter beside this process is gone: this process can start nothing any more and has to end.
    #[error("the process that starts roles is gone")]
    StarterGone(#[source] io::Error),
    /// This process was not started as a role: nothing came on descriptor 0.
    #[error("no configuration came on descriptor 0; roles are started by `postern up`, not by hand")]
    NotARole,
}

/// A role that was started. Dropping it does not end it: closing its channel does.
#[derive(Debug)]
pub struct Child {
    role: &'static str,
    process: Process,
    id: u32,
}

/// The process, ours or a starter's child.
#[derive(Debug)]
pub(super) enum Process {
    Own(tokio::process::Child),
    Watched { id: u32, watch: AsyncFd<OwnedFd>, starter: Starter, ended: Option<ExitStatus> },
}

impl Process {
    pub(super) fn watched(executed: Executed, starter: Starter) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "the constructor that is safe to call: it is unsound for types that lie about their descriptor, and an OwnedFd does not"
        )]
        let watch = AsyncFd::with_interest(executed.watch, Interest::READABLE)?;
        Ok(Self::Watched { id: executed.id, watch, starter, ended: None })
    }

    fn id(&self) -> u32 {
        match self {
            Self::Own(process) => process.id().unwrap_or_default(),
            Self::Watched { id, .. } => *id,
        }
    }

    async fn wait(&mut self) -> io::Result<ExitStatus> {
        match self {
            Self::Own(process) => process.wait().await,
            Self::Watched { ended: Some(status), .. } => Ok(*status),
            Self::Watched { id, watch, starter, ended } => {
                // Readable once it has ended, and from then on.
                let _ended = watch.readable().await?;
                let status = starter.ended(*id)?;
                *ended = Some(status);
                Ok(status)
            }
        }
    }

    fn kill(&mut self) -> io::Result<()> {
        match self {
            Self::Own(process) => process.start_kill(),
            Self::Watched { ended: Some(_), .. } => Ok(()),
            Self::Watched { id, starter, .. } => starter.kill(*id),
        }
    }
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
        self.process.kill()
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

/// Starts `ROLE` of the starter's program and sends it the configuration with the descriptors. Returns when the configuration is handed to the kernel or,
/// for one larger than a socket's buffer, when the role took it. Must be called inside a runtime.
///
/// # Errors
/// [`StartError`].
pub fn start<C: Serialize>(
    role: &'static str,
    configuration: &C,
    starter: &Starter,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(Child, asynchronous::Channel), StartError> {
    let (child, channel) = launch(role, starter)?;
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
    starter: &Starter,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(Child, asynchronous::Channel, R), StartError> {
    let (child, mut channel) = start(role, configuration, starter, descriptors)?;
    match channel.receive(FIRST_MESSAGE_LIMIT).await.map_err(StartError::Configure)? {
        Some((ready, _)) => Ok((child, channel, ready)),
        None => Err(StartError::Configure(ChannelError::Truncated { missing: crate::frame::HEADER })),
    }
}

/// In the role: what its starter sent first, before there is a runtime. A role that confines itself does it with this in hand, while it has one thread.
pub struct First<C> {
    /// The configuration.
    pub configuration: C,
    descriptors: Vec<OwnedFd>,
    channel: Channel,
}

impl<C: DeserializeOwned> First<C> {
    /// Waits for it. Once, at the start.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn receive() -> Result<Self, StartError> {
        let (configuration, descriptors, channel) = first_message_blocking()?;
        Ok(Self { configuration, descriptors, channel })
    }
}

impl<C> First<C> {
    /// Its parts: configuration, descriptors and the channel. Must be called inside a runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn into_parts(self) -> Result<(C, Vec<OwnedFd>, asynchronous::Channel), StartError> {
        let channel = asynchronous::Channel::new(self.channel.into_socket()).map_err(StartError::Socket)?;
        Ok((self.configuration, self.descriptors, channel))
    }
}

/// The same parts at once, for a role that does not confine itself. Must be called inside a runtime, once, at the start.
///
/// # Errors
/// [`StartError`].
pub fn first_message<C: DeserializeOwned>() -> Result<(C, Vec<OwnedFd>, asynchronous::Channel), StartError> {
    First::receive()?.into_parts()
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

fn launch(role: &'static str, starter: &Starter) -> Result<(Child, Channel), StartError> {
    let (ours, theirs) = socket::pair().map_err(StartError::Socket)?;
    // What was taken before a wait that timed out counts as sent, and its rest waits once more.
    let each_wait = CONFIGURE_WITHIN / 2;
    rustix::net::sockopt::set_socket_timeout(&ours, rustix::net::sockopt::Timeout::Send, Some(each_wait))
        .map_err(|errno| StartError::Socket(errno.into()))?;
    let process = starter.execute(role, theirs)?;
    let id = process.id();
    Ok((Child { role, process, id }, Channel::new(ours)))
}

/// A role that takes nothing of its configuration for so long does not block its starter any longer.
const CONFIGURE_WITHIN: Duration = Duration::from_secs(10);

//! The worker's side of the egress process: opens sessions, hands over the sandbox's sockets, collects refusals.
//! Holds no secret and makes no decision.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
};

use postern_exec::{
    asynchronous::Channel,
    role::{self, Child, StartError, Starter},
    rpc::{CallError, Caller},
};

use crate::message::{Answer, Question, Ready, Socket};
pub use crate::message::{Configuration, OpenSession, Opened, Refusal, Selected, SessionPlaceholder};

/// The sandbox's sockets, made inside its network namespace. A socket that this host could not make is `None`.
#[derive(Debug)]
pub struct Network {
    /// TCP listener that IPv4 connections are redirected to.
    pub redirect_v4: Option<OwnedFd>,
    /// The same for IPv6.
    pub redirect_v6: Option<OwnedFd>,
    /// DNS over UDP, IPv4.
    pub dns_udp_v4: Option<OwnedFd>,
    /// DNS over UDP, IPv6.
    pub dns_udp_v6: Option<OwnedFd>,
    /// DNS over TCP, IPv4.
    pub dns_tcp_v4: Option<OwnedFd>,
    /// DNS over TCP, IPv6.
    pub dns_tcp_v6: Option<OwnedFd>,
    /// Explicit HTTP proxy.
    pub proxy: Option<OwnedFd>,
    /// NFLOG netlink socket that reports refused UDP.
    pub refused_udp: Option<OwnedFd>,
}

/// A connection to the egress process. Clones share it.
#[derive(Clone)]
pub struct Client {
    caller: Caller<Question, Answer>,
}

/// The egress process did not start.
#[derive(Debug, thiserror::Error)]
pub enum EgressStartError {
    /// No process, or no word from it.
    #[error("start the egress process")]
    Start(#[from] StartError),
    /// It refused its configuration.
    #[error("the egress process refused its configuration: {0}")]
    Refused(String),
}

/// The egress process did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The process is gone or does not answer; the worker ends with it.
    #[error("ask the egress process")]
    Call(#[from] CallError),
    /// The process refused.
    #[error("egress: {code}: {message}")]
    Failed {
        /// Stable code.
        code: String,
        /// For the operator.
        message: String,
    },
    /// The process answered another question.
    #[error("the egress process answered out of turn")]
    OutOfTurn,
}

/// Starts the egress role with its audit and custody connections. Must be called inside a runtime.
///
/// # Errors
/// When the process does not start or refuses its configuration.
pub async fn start(
    starter: &Starter,
    configuration: &Configuration,
    audit: &OwnedFd,
    custody: &OwnedFd,
) -> Result<(Child, Client), EgressStartError> {
    let descriptors = [audit.as_fd(), custody.as_fd()];
    let (child, channel, ready): (_, _, Ready) =
        role::start_and_wait(crate::ROLE, configuration, starter, &descriptors).await?;
    if !ready.problems.is_empty() {
        return Err(EgressStartError::Refused(ready.problems.join("; ")));
    }
    Ok((child, Client::over(channel)))
}

impl Client {
    /// A client over a channel to the process. Must be called inside a runtime.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        Self { caller: Caller::new(channel, crate::message::LIMIT) }
    }

    /// Waits until the process is gone: the worker ends with it.
    pub async fn gone(&self) {
        self.caller.gone().await;
    }

    /// Makes the session's CA, name table and secrets ready.
    ///
    /// # Errors
    /// When the zone differs from the process' own reading of it, or the session is already open.
    pub async fn open(&self, session: OpenSession) -> Result<Opened, EgressError> {
        match self.ask(Question::Open(session), Vec::new()).await? {
            Answer::Opened(opened) => Ok(opened),
            _ => Err(EgressError::OutOfTurn),
        }
    }

    /// Serves the sandbox's sockets until the session is closed.
    ///
    /// # Errors
    /// When the session is not open or a descriptor is not what it should be.
    pub async fn attach(&self, session: &str, network: Network) -> Result<(), EgressError> {
        let (sockets, descriptors) = network.into_parts();
        self.done(Question::Attach { session: session.to_owned(), sockets }, descriptors).await
    }

    /// Names the tool use that the session's next records belong to.
    ///
    /// # Errors
    /// When the session is not open.
    pub async fn current_tool_use(&self, session: &str, tool_use: Option<&str>) -> Result<(), EgressError> {
        let question = Question::CurrentToolUse { session: session.to_owned(), tool_use: tool_use.map(str::to_owned) };
        self.done(question, Vec::new()).await
    }

    /// Takes the refusals since the last call, oldest first.
    ///
    /// # Errors
    /// When the session is not open.
    pub async fn refusals(&self, session: &str) -> Result<Vec<Refusal>, EgressError> {
        match self.ask(Question::Refusals { session: session.to_owned() }, Vec::new()).await? {
            Answer::Refusals { refusals } => Ok(refusals),
            _ => Err(EgressError::OutOfTurn),
        }
    }

    /// Cuts the session's connections and refuses new ones until it is thawed. Freezing twice is no error.
    ///
    /// # Errors
    /// When the session is not open.
    pub async fn freeze(&self, session: &str) -> Result<(), EgressError> {
        self.done(Question::Freeze { session: session.to_owned() }, Vec::new()).await
    }

    /// Lets the session's connections through again.
    ///
    /// # Errors
    /// When the session is not open.
    pub async fn thaw(&self, session: &str) -> Result<(), EgressError> {
        self.done(Question::Thaw { session: session.to_owned() }, Vec::new()).await
    }

    /// Cuts the session's connections and forgets its secrets; requests that would need one are refused from then on.
    ///
    /// # Errors
    /// When the session is not open.
    pub async fn revoke(&self, session: &str) -> Result<(), EgressError> {
        self.done(Question::Revoke { session: session.to_owned() }, Vec::new()).await
    }

    /// Takes up another configuration, and what it selects for the open sessions; answers what is wrong with it, and
    /// then nothing changed.
    ///
    /// # Errors
    /// When the process is gone or does not take the message.
    pub async fn reload(
        &self,
        configuration: Configuration,
        selected: BTreeMap<String, Selected>,
    ) -> Result<Vec<String>, EgressError> {
        let Configuration { document, environments, names: _ } = configuration;
        match self.ask(Question::Reload { document, environments, selected }, Vec::new()).await? {
            Answer::Reloaded { problems } => Ok(problems),
            _ => Err(EgressError::OutOfTurn),
        }
    }

    /// Ends the session: its tasks stop, its secrets are zeroed, its CA is forgotten. Closing twice is no error.
    ///
    /// # Errors
    /// When the process is gone.
    pub async fn close(&self, session: &str) -> Result<(), EgressError> {
        self.done(Question::Close { session: session.to_owned() }, Vec::new()).await
    }

    async fn done(&self, question: Question, descriptors: Vec<OwnedFd>) -> Result<(), EgressError> {
        match self.ask(question, descriptors).await? {
            Answer::Done => Ok(()),
            _ => Err(EgressError::OutOfTurn),
        }
    }

    async fn ask(&self, question: Question, descriptors: Vec<OwnedFd>) -> Result<Answer, EgressError> {
        match self.caller.call_with_fds(question, descriptors).await? {
            (Answer::Failed { code, message }, _) => Err(EgressError::Failed { code, message }),
            (answer, _) => Ok(answer),
        }
    }
}

impl Network {
    fn into_parts(self) -> (Vec<Socket>, Vec<OwnedFd>) {
        [
            (Socket::RedirectV4, self.redirect_v4),
            (Socket::RedirectV6, self.redirect_v6),
            (Socket::DnsUdpV4, self.dns_udp_v4),
            (Socket::DnsUdpV6, self.dns_udp_v6),
            (Socket::DnsTcpV4, self.dns_tcp_v4),
            (Socket::DnsTcpV6, self.dns_tcp_v6),
            (Socket::Proxy, self.proxy),
            (Socket::RefusedUdp, self.refused_udp),
        ]
        .into_iter()
        .filter_map(|(socket, descriptor)| Some((socket, descriptor?)))
        .unzip()
    }
}

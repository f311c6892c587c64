//! The first words on a keeper's socket: who joins, and whether it may. Afterwards the socket is audit's or custody's own.

use std::os::fd::OwnedFd;
use std::time::Duration;

use postern_exec::asynchronous::Channel;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::message::CallerKind;

/// What a joining process says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The build: questions and answers of two builds need not fit each other.
    pub(super) version: String,
    pub(super) kind: CallerKind,
    /// Digest of its configuration document.
    pub(super) document: String,
}

/// The keeper's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Welcome {
    Joined(Standing),
    Refused(JoinRefusal),
}

/// What audit and custody said at their start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The key that signs the audit log, in hexadecimal.
    pub audit_key: String,
    /// The perimeter's public key, in hexadecimal.
    pub perimeter_public_key: String,
    /// What protects less than it could.
    pub degraded: Vec<String>,
}

/// Why a process may not join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum JoinRefusal {
    /// It belongs to another user.
    #[error(
        "foreign_user: run worker and gateway of one perimeter as one user, or give each a data directory of its own"
    )]
    ForeignUser,
    /// It read another configuration.
    #[error(
        "other_document: worker and gateway of one data directory read the same configuration; restart both after a change, or give each a data directory of its own"
    )]
    OtherDocument,
    /// It is another build.
    #[error("other_version: worker and gateway of one data directory are the same version of postern; restart both")]
    OtherVersion,
    /// What it said is no hello.
    #[error("misread: whatever connected is not postern")]
    Misread,
}

impl JoinRefusal {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::ForeignUser => "foreign_user",
            Self::OtherDocument => "other_document",
            Self::OtherVersion => "other_version",
            Self::Misread => "misread",
        }
    }
}

/// Which of the two is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Audit,
    Custody,
}

impl Service {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Custody => "custody",
        }
    }

    pub(super) fn socket_name(self) -> &'static str {
        match self {
            Self::Audit => "audit.sock",
            Self::Custody => "custody.sock",
        }
    }
}

/// How an attempt to join ended.
pub(super) enum Joining {
    Joined {
        socket: OwnedFd,
        standing: Standing,
    },
    Refused(JoinRefusal),
    /// Nobody answered, or not to the end.
    Nobody,
}

/// The joining side.
pub(super) async fn join(socket: OwnedFd, kind: CallerKind, document: &str) -> Joining {
    let hello = Hello { version: VERSION.to_owned(), kind, document: document.to_owned() };
    let Ok(mut channel) = Channel::new(socket) else { return Joining::Nobody };
    let answered = async {
        // A keeper that refuses at once may have closed already: its answer is there to be read all the same.
        let _closed = channel.send(&hello, &[]).await;
        channel.receive::<Welcome>(WELCOME_LIMIT).await
    };
    match tokio::time::timeout(ANSWER_WITHIN, answered).await {
        Ok(Ok(Some((Welcome::Joined(standing), _)))) => match channel.into_socket() {
            Ok(socket) => Joining::Joined { socket, standing },
            Err(_) => Joining::Nobody,
        },
        Ok(Ok(Some((Welcome::Refused(refusal), _)))) => Joining::Refused(refusal),
        Ok(Ok(None) | Err(_)) | Err(_) => Joining::Nobody,
    }
}

/// The keeper's side: judges the hello, by the documents that custody goes by now, and answers it. The socket comes back if the peer may join.
pub(super) async fn receive(
    socket: OwnedFd,
    same_user: bool,
    custody: &Client,
    standing: &Standing,
) -> Result<(OwnedFd, CallerKind), Option<JoinRefusal>> {
    let mut channel = Channel::new(socket).map_err(|_| None)?;
    let judged = match same_user {
        false => Err(JoinRefusal::ForeignUser),
        true => match tokio::time::timeout(HELLO_WITHIN, channel.receive::<Hello>(HELLO_LIMIT)).await {
            Ok(Ok(Some((hello, _)))) => {
                let documents = tokio::time::timeout(HELLO_WITHIN, custody.documents()).await;
                judge(&hello, &documents.map_err(|_| None)?.map_err(|_| None)?)
            }
            Ok(Ok(None)) | Err(_) => return Err(None),
            Ok(Err(_)) => Err(JoinRefusal::Misread),
        },
    };
    let answer = match judged {
        Ok(_) => Welcome::Joined(standing.clone()),
        Err(refusal) => Welcome::Refused(refusal),
    };
    let told = tokio::time::timeout(HELLO_WITHIN, channel.send(&answer, &[])).await;
    let kind = judged.map_err(Some)?;
    told.map_err(|_| None)?.map_err(|_| None)?;
    Ok((channel.into_socket().map_err(|_| None)?, kind))
}

fn judge(hello: &Hello, documents: &[String]) -> Result<CallerKind, JoinRefusal> {
    let rules = [
        (hello.version != VERSION, JoinRefusal::OtherVersion),
        (!documents.contains(&hello.document), JoinRefusal::OtherDocument),
    ];
    match rules.into_iter().find(|(broken, _)| *broken) {
        Some((_, refusal)) => Err(refusal),
        None => Ok(hello.kind),
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
const HELLO_LIMIT: usize = 4 << 10;
const WELCOME_LIMIT: usize = 64 << 10;
const HELLO_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;

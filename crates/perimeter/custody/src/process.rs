//! The role `custody`: reads zones and routes, opens the store, serves its starter on descriptor 0 and whomever the starter attaches.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use postern_audit::Client as Audit;
use postern_exec::asynchronous::Channel;
use postern_exec::role::First;
use postern_exec::{WireBytes, rpc};
use postern_secret::SecretBytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::approved::Approved;
use crate::custodian::{Asker, Custodian, Grant, Parts, RefreshGranted};
use crate::generation::Generation;
use crate::holds::Holds;
use crate::ledger::Ledger;
use crate::message::{Answer, Ask, CallerKind, Configuration, Ready};
use crate::open::Opener;
use crate::refusal::{Refusal, RefusalReason};
use crate::renewals::Renewals;
use crate::store::Store;

/// The role's name on the command line.
pub const ROLE: &str = "custody";

/// The role itself; ends when descriptor 0 closes or the audit process is gone.
pub async fn process_main(first: First<Configuration>) -> ExitCode {
    let (configuration, mut descriptors, mut channel) = match first.into_parts() {
        Ok(parts) => parts,
        Err(error) => {
            tracing::error!(%error, "custody does not start");
            return ExitCode::FAILURE;
        }
    };
    let audit = descriptors.pop();
    // What else came is kept open as long as this process lives: the perimeter's lock, where a keeper started it.
    let _kept = descriptors;
    let begun = begin(configuration, audit);
    let ready = match &begun {
        Ok((_, _, ready)) => ready.clone(),
        Err(problems) => {
            Ready { problems: problems.clone(), degraded: Vec::new(), perimeter_public_key: String::new() }
        }
    };
    let told = channel.send(&ready, &[]).await;
    match (begun, told) {
        (Ok((custodian, audit, _)), Ok(())) => run(channel, Arc::new(custodian), audit).await,
        (Err(problems), _) => {
            tracing::error!(?problems, "custody does not start");
            ExitCode::FAILURE
        }
        (Ok(_), Err(error)) => {
            tracing::error!(%error, "custody lost its worker at once");
            ExitCode::FAILURE
        }
    }
}

fn begin(configuration: Configuration, audit: Option<OwnedFd>) -> Result<(Custodian, Audit, Ready), Vec<String>> {
    let Configuration { document, environments, directory, snapshot } = configuration;
    let store = Store::at(&directory);
    let generation = Generation::load(document, &environments, snapshot, &store, None)?;
    let audit = audit.ok_or_else(|| vec!["no audit connection came with the configuration".to_owned()])?;
    let audit = Audit::new(Channel::new(audit).map_err(|error| vec![format!("the audit connection: {error}")])?);
    store.prepare().map_err(|error| vec![chain(&error)])?;
    let pair = store.perimeter().map_err(|error| vec![chain(&error)])?;
    let ledger =
        Ledger::open(&directory, Timestamp::now()).map_err(|error| vec![format!("the placeholder ledger: {error}")])?;
    let renewals = Renewals::open(&directory).map_err(|error| vec![format!("the renewed credentials: {error}")])?;
    let holds = Holds::open(&directory).map_err(|error| vec![format!("the frozen and revoked sessions: {error}")])?;
    let ready =
        Ready { problems: Vec::new(), degraded: store.degraded(), perimeter_public_key: pair.public.to_string() };
    let custodian = Custodian::new(Parts {
        generation,
        store,
        opener: Opener::new(&pair),
        approved: Approved::at(&directory),
        ledger,
        holds,
        renewals,
        recorder: Arc::new(audit.clone()),
    });
    Ok((custodian, audit, ready))
}

async fn run(channel: Channel, custodian: Arc<Custodian>, audit: Audit) -> ExitCode {
    let (attached, attachments) = untaken();
    let mut attending = JoinSet::new();
    attending.spawn(attend(attachments, Arc::clone(&custodian)));
    attending.spawn(forget_idle(Arc::clone(&custodian)));
    attending.spawn(tell_counted(Arc::clone(&custodian)));
    let handler = Arc::clone(&custodian);
    let serving = rpc::serve(channel, question_limit(CallerKind::Worker), move |ask, descriptors| {
        let (custodian, attached) = (Arc::clone(&handler), attached.clone());
        async move {
            match ask {
                Ask::Attach { caller } => (attach(caller, descriptors, &attached).await, Vec::new()),
                ask => answer(&custodian, CallerKind::Worker.into(), ask).await,
            }
        }
    });
    let ended = tokio::select! {
        served = serving => served.map_err(|error| error.to_string()),
        () = audit.gone() => Err("the audit process is gone".to_owned()),
    };
    attending.shutdown().await;
    custodian.record_counted().await;
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "custody ends");
            ExitCode::FAILURE
        }
    }
}

/// Who is at the other end of a connection, and the connection.
type Attachment = (CallerKind, OwnedFd);

/// Where connections wait that custody was told of and has not taken.
fn untaken() -> (mpsc::Sender<Attachment>, mpsc::Receiver<Attachment>) {
    mpsc::channel(ATTACHMENTS)
}

async fn attach(caller: CallerKind, mut descriptors: Vec<OwnedFd>, attached: &mpsc::Sender<Attachment>) -> Answer {
    let Some(socket) = descriptors.pop() else {
        return Answer::Refused(Refusal::new(RefusalReason::WrongConnection, "attach with one connected socket"));
    };
    match attached.send((caller, socket)).await {
        Ok(()) => Answer::Attached,
        Err(_ending) => Answer::Refused(Refusal::new(RefusalReason::WrongConnection, "custody is ending")),
    }
}

/// Serves the attached connections, each as what it was attached as.
async fn attend(mut attachments: mpsc::Receiver<Attachment>, custodian: Arc<Custodian>) {
    let mut connections = JoinSet::new();
    let mut connection = 0;
    loop {
        tokio::select! {
            attachment = attachments.recv() => match attachment {
                Some((kind, _)) if connections.len() >= CONNECTIONS => {
                    tracing::error!(?kind, "more connections than custody serves; this one is closed");
                }
                Some((kind, socket)) => {
                    connection += 1;
                    connections.spawn(serve_one(Asker { kind, connection }, socket, Arc::clone(&custodian)));
                }
                None => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection; what was opened or granted over it ends with it.
async fn serve_one(asker: Asker, socket: OwnedFd, custodian: Arc<Custodian>) {
    let channel = match Channel::new(socket) {
        Ok(channel) => channel,
        Err(error) => return tracing::error!(?asker, %error, "an attached connection is not a stream socket"),
    };
    let handler = Arc::clone(&custodian);
    let served = rpc::serve(channel, question_limit(asker.kind), move |ask, _| {
        let custodian = Arc::clone(&handler);
        async move { answer(&custodian, asker, ask).await }
    })
    .await;
    if let Err(error) = served {
        tracing::error!(?asker, %error, "an attached connection failed");
    }
    custodian.left(asker.connection).await;
}

/// Who may bring a document may bring more than a question.
fn question_limit(kind: CallerKind) -> usize {
    match kind {
        CallerKind::Worker | CallerKind::Gateway => DOCUMENT_LIMIT,
        CallerKind::Egress => REQUEST_LIMIT,
    }
}

/// Zeroes what no call has used for long.
async fn forget_idle(custodian: Arc<Custodian>) {
    let mut minutes = tokio::time::interval(Duration::from_secs(60));
    loop {
        minutes.tick().await;
        custodian.forget_idle(Instant::now());
        custodian.forget_renewals().await;
    }
}

async fn tell_counted(custodian: Arc<Custodian>) {
    let mut ticks = tokio::time::interval(COUNTED_WITHIN);
    loop {
        ticks.tick().await;
        custodian.record_counted().await;
    }
}

/// How long refusals stay counted before their number is written.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);

async fn answer(custodian: &Custodian, asker: Asker, ask: Ask) -> (Answer, Vec<OwnedFd>) {
    let caller = asker.kind;
    let mut descriptors = Vec::new();
    let answer = match ask {
        Ask::Open(open) => custodian.open(asker, *open).await.map(Answer::Opened),
        Ask::Refresh { session, variables } => {
            custodian.refresh(caller, &session, variables).await.map(|withheld| Answer::Refreshed { withheld })
        }
        Ask::Rewrap { values, to } => {
            custodian.rewrap(caller, &values, &to).await.map(|wraps| Answer::Rewrapped { wraps })
        }
        Ask::Close { session } => custodian.close(caller, &session).await.map(|()| Answer::Closed),
        Ask::Attach { .. } => {
            Err(Refusal::new(RefusalReason::WrongConnection, "only the starter's own connection attaches others"))
        }
        Ask::Grant { session, credential, policy_digest, purpose } => custodian
            .grant(caller, &session, &credential, &policy_digest, purpose)
            .await
            .map(|Grant { secret, kept, vault }| {
                let kept = kept.map(|(kept, with)| {
                    descriptors = with;
                    kept
                });
                Answer::Granted { secret: for_the_wire(&secret), kept, vault }
            }),
        Ask::Revoke { session, credential } => {
            custodian.revoke(caller, &session, &credential).await.map(|()| Answer::Revoked)
        }
        Ask::GrantRoute(grant) => {
            let granted = custodian.grant_route(asker, *grant).await;
            granted.map(|secret| Answer::Granted { secret: for_the_wire(&secret), kept: None, vault: None })
        }
        Ask::GrantRefresh(grant) => custodian.grant_refresh(caller, &grant).await.map(|granted| match granted {
            RefreshGranted::Secrets { refresh_token, client_secret } => Answer::RefreshGranted {
                refresh_token: for_the_wire(&refresh_token),
                client_secret: client_secret.as_ref().map(for_the_wire),
            },
            RefreshGranted::Kept(renewed) => Answer::Renewed(renewed),
        }),
        Ask::SealFresh(fresh) => {
            custodian.seal_fresh(caller, *fresh).await.map(|renewed| Answer::Renewed(Box::new(renewed)))
        }
        Ask::SealKept { routes_digest, answer } => {
            let sealed = custodian.seal_kept(caller, routes_digest, *answer).await;
            sealed.map(|renewed| Answer::Renewed(Box::new(renewed)))
        }
        Ask::Known { session } => custodian
            .known(asker, &session)
            .map(|secrets| Answer::Known { secrets: secrets.iter().map(for_the_wire).collect() }),
        Ask::Freeze { session } => custodian.freeze(caller, &session).await.map(|()| Answer::Held),
        Ask::Thaw { session } => custodian.thaw(caller, &session).await.map(|()| Answer::Held),
        Ask::RevokeGrants { session } => custodian.revoke_grants(caller, &session).await.map(|()| Answer::Held),
        Ask::Reload(reload) => custodian.reload(caller, *reload).await.map(|problems| Answer::Reloaded { problems }),
        Ask::Documents => custodian.documents(caller).map(|digests| Answer::Documents { digests }),
        Ask::Placeholders => custodian.placeholders(caller).map(|known| Answer::Placeholders { known }),
    };
    (answer.unwrap_or_else(Answer::Refused), descriptors)
}

#[expect(clippy::disallowed_methods, reason = "a grant hands the value to the egress proxy or gateway of the session")]
fn for_the_wire(secret: &SecretBytes) -> WireBytes {
    WireBytes::new(secret.expose().clone())
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Attached connections that wait to be taken; whoever attaches one more waits.
const ATTACHMENTS: usize = 16;
/// Attached connections served at one time; further ones are closed.
const CONNECTIONS: usize = 64;
/// A sealed credential of the largest size fits.
const REQUEST_LIMIT: usize = 512 << 10;
/// A whole document fits, with what it attaches.
const DOCUMENT_LIMIT: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sixteen_connections_wait_to_be_taken_and_whoever_attaches_another_waits() {
        let (attached, mut attachments) = untaken();
        let attaching = || async {
            let (_ours, theirs) = Channel::pair().expect("a pair");
            attach(CallerKind::Egress, vec![theirs], &attached).await
        };
        for number in 0..16 {
            let at_once = tokio::time::timeout(Duration::from_secs(1), attaching()).await;
            assert!(matches!(at_once, Ok(Answer::Attached)), "{number}");
        }
        let mut one_more = std::pin::pin!(attaching());
        assert!(tokio::time::timeout(Duration::from_secs(3600), &mut one_more).await.is_err());
        attachments.recv().await.expect("the first");
        assert!(matches!(one_more.await, Answer::Attached));
    }
}

//! The role `custody`: reads the zones, opens the store, serves the worker on descriptor 0 and whomever the worker attaches.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use postern_audit::Client as Audit;
use postern_exec::asynchronous::Channel;
use postern_exec::{WireBytes, role, rpc};
use postern_policy::{Document, Zones};
use postern_secret::{Secret, SecretBytes};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::custodian::Custodian;
use crate::ledger::Ledger;
use crate::message::{Answer, Ask, CallerKind, Configuration, Ready};
use crate::refusal::{Refusal, RefusalReason};
use crate::source::Sources;
use crate::store::Store;

/// The role's name on the command line.
pub const ROLE: &str = "custody";

/// The role itself; ends when descriptor 0 closes or the audit process is gone.
pub async fn process_main() -> ExitCode {
    let (configuration, descriptors, mut channel) = match role::first_message::<Configuration>() {
        Ok(first) => first,
        Err(error) => {
            tracing::error!(%error, "custody does not start");
            return ExitCode::FAILURE;
        }
    };
    let begun = begin(configuration, descriptors);
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

fn begin(
    configuration: Configuration,
    mut descriptors: Vec<OwnedFd>,
) -> Result<(Custodian, Audit, Ready), Vec<String>> {
    let Configuration { document, environments, directory, snapshot } = configuration;
    let document = Document::from_text(document).map_err(|errors| texts(&errors))?;
    let zones = Zones::load(&document, &environments).map_err(|errors| texts(&errors))?;
    let audit = descriptors.pop().ok_or_else(|| vec!["no audit connection came with the configuration".to_owned()])?;
    let audit = Audit::new(Channel::new(audit).map_err(|error| vec![format!("the audit connection: {error}")])?);
    let store = Store::open(&directory).map_err(|error| vec![chain(&error)])?;
    let key = store.perimeter_public_key().map_err(|error| vec![chain(&error)])?;
    let ledger =
        Ledger::open(&directory, Timestamp::now()).map_err(|error| vec![format!("the placeholder ledger: {error}")])?;
    let ready = Ready { problems: Vec::new(), degraded: store.degraded(), perimeter_public_key: key.to_string() };
    let snapshot = snapshot.into_iter().map(|(name, value)| (name, Secret::new(value.into_bytes()))).collect();
    let custodian = Custodian::new(zones, Sources { store, snapshot }, ledger, Arc::new(audit.clone()));
    Ok((custodian, audit, ready))
}

async fn run(channel: Channel, custodian: Arc<Custodian>, audit: Audit) -> ExitCode {
    let (attached, attachments) = mpsc::channel(ATTACHMENTS);
    let mut attending = JoinSet::new();
    attending.spawn(attend(attachments, Arc::clone(&custodian)));
    let handler = Arc::clone(&custodian);
    let serving = rpc::serve(channel, REQUEST_LIMIT, move |ask, descriptors| {
        let (custodian, attached) = (Arc::clone(&handler), attached.clone());
        async move {
            let answer = match ask {
                Ask::Attach { caller } => attach(caller, descriptors, &attached).await,
                ask => answer(&custodian, CallerKind::Worker, ask).await,
            };
            (answer, Vec::new())
        }
    });
    let ended = tokio::select! {
        served = serving => served.map_err(|error| error.to_string()),
        () = audit.gone() => Err("the audit process is gone".to_owned()),
    };
    attending.shutdown().await;
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "custody ends");
            ExitCode::FAILURE
        }
    }
}

async fn attach(
    caller: CallerKind,
    mut descriptors: Vec<OwnedFd>,
    attached: &mpsc::Sender<(CallerKind, OwnedFd)>,
) -> Answer {
    let Some(socket) = descriptors.pop() else {
        return Answer::Refused(Refusal::new(RefusalReason::WrongConnection, "attach with one connected socket"));
    };
    match attached.send((caller, socket)).await {
        Ok(()) => Answer::Attached,
        Err(_ending) => Answer::Refused(Refusal::new(RefusalReason::WrongConnection, "custody is ending")),
    }
}

/// Serves the attached connections, each as what it was attached as.
async fn attend(mut attachments: mpsc::Receiver<(CallerKind, OwnedFd)>, custodian: Arc<Custodian>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            attachment = attachments.recv() => match attachment {
                Some((caller, socket)) => { connections.spawn(serve_one(caller, socket, Arc::clone(&custodian))); }
                None => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

pub(crate) async fn serve_one(caller: CallerKind, socket: OwnedFd, custodian: Arc<Custodian>) {
    let channel = match Channel::new(socket) {
        Ok(channel) => channel,
        Err(error) => return tracing::error!(?caller, %error, "an attached connection is not a stream socket"),
    };
    let served = rpc::serve(channel, REQUEST_LIMIT, move |ask, _| {
        let custodian = Arc::clone(&custodian);
        async move { (answer(&custodian, caller, ask).await, Vec::new()) }
    })
    .await;
    if let Err(error) = served {
        tracing::error!(?caller, %error, "an attached connection failed");
    }
}

async fn answer(custodian: &Custodian, caller: CallerKind, ask: Ask) -> Answer {
    let answer = match ask {
        Ask::Open(open) => custodian.open(caller, open).await.map(|issued| Answer::Opened { issued }),
        Ask::Close { session } => custodian.close(caller, &session).await.map(|()| Answer::Closed),
        Ask::Attach { .. } => {
            Err(Refusal::new(RefusalReason::WrongConnection, "only the worker's own connection attaches others"))
        }
        Ask::Grant { session, credential, policy_digest, purpose } => custodian
            .grant(caller, &session, &credential, &policy_digest, purpose)
            .await
            .map(|secret| Answer::Granted { secret: for_the_wire(&secret) }),
        Ask::Revoke { session, credential } => {
            custodian.revoke(caller, &session, &credential).await.map(|()| Answer::Revoked)
        }
        Ask::Placeholders => custodian.placeholders(caller).map(|known| Answer::Placeholders { known }),
    };
    answer.unwrap_or_else(Answer::Refused)
}

#[expect(clippy::disallowed_methods, reason = "a grant hands the value to the egress proxy of the session")]
fn for_the_wire(secret: &SecretBytes) -> WireBytes {
    WireBytes::new(secret.expose().clone())
}

fn texts<T: ToString>(errors: &[T]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

const ATTACHMENTS: usize = 16;
const REQUEST_LIMIT: usize = 64 << 10;

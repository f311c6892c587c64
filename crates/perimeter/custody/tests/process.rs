//! The role for real, with a real audit process: this test program is both roles (`exe custody` runs the test of that name, with a socket as
//! descriptor 0).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use postern_custody::{
    CallerKind, Client, Configuration, CustodyError, EgressClient, GatewayClient, OpenSession, Purpose, RefusalReason,
    store::Store,
};
use postern_exec::WireBytes;
use postern_exec::asynchronous::Channel;
use postern_exec::role::{self, First, Starter};
use postern_exec::rpc::{CallError, Caller};
use postern_policy::{Document, Zones};
use serde::de::DeserializeOwned;

const VALUE: &str = "s3cret-Value-of-the-ledger";
const CONFIGURATION: &str = r#"
config = 1
[zone.ledger]
environment = "default"
[[zone.ledger.credential]]
name = "ledger-api"
source = "env:LEDGER"
env = "LEDGER_API_KEY"
inject = [{ header = "authorization" }]
[[zone.ledger.egress]]
host = "api.ledger.internal"
scheme = "https"
ports = [443]
credential = "ledger-api"
"#;

fn run<C: DeserializeOwned, M: Future<Output = ExitCode>>(main: impl FnOnce(First<C>) -> M) {
    let by_hand =
        std::fs::read_link("/proc/self/fd/0").is_ok_and(|link| !link.to_string_lossy().starts_with("socket:"));
    let Ok(first) = First::receive() else { return assert!(by_hand) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let code = runtime.block_on(main(first));
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
}

/// Started by hand it fails; started as a role it serves until descriptor 0 closes.
#[test]
fn audit() {
    run(postern_audit::process_main);
}

/// As above.
#[test]
fn custody() {
    run(postern_custody::process_main);
}

fn configuration(directory: &Path) -> Configuration {
    Configuration {
        document: Document::parse("postern.toml", CONFIGURATION).unwrap().text().clone(),
        environments: names(),
        directory: directory.join("own"),
        snapshot: BTreeMap::from([("LEDGER".to_owned(), WireBytes::new(VALUE.as_bytes().to_vec()))]),
    }
}

fn names() -> BTreeMap<String, String> {
    BTreeMap::from([("default".to_owned(), "env_1".to_owned())])
}

fn session() -> OpenSession {
    let zones = Zones::load(&Document::parse("postern.toml", CONFIGURATION).unwrap(), &names()).unwrap();
    let digest = zones.named("ledger").unwrap().digest().to_owned();
    OpenSession { session: "sesn_1".to_owned(), agent: None, zone: "ledger".to_owned(), digest, variables: Vec::new() }
}

async fn log(directory: &Path) -> (role::Child, postern_audit::Client, OwnedFd) {
    let (child, client, _) =
        postern_audit::start(&Starter::itself(std::env::current_exe().unwrap()), &directory.join("log")).await.unwrap();
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    client.attach("custody", theirs).await.unwrap();
    (child, client, ours)
}

async fn begun(directory: &Path, audit: &OwnedFd) -> (role::Child, Client) {
    let starter = Starter::itself(std::env::current_exe().unwrap());
    let (child, client, ready) = postern_custody::start(&starter, &configuration(directory), audit).await.unwrap();
    assert_eq!(ready.problems, Vec::<String>::new());
    assert_eq!((ready.degraded.len(), ready.perimeter_public_key.len()), (1, 64));
    (child, client)
}

#[tokio::test]
async fn a_secret_reaches_the_proxy_of_an_open_session_and_the_worker_never_gets_one() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log_child, log_client, socket) = log(directory.path()).await;
    let (mut child, worker) = begun(directory.path(), &socket).await;
    drop(socket);
    let issued = worker.open(session()).await.unwrap().issued;
    assert_eq!(issued[0].placeholder.as_str().len(), VALUE.len());

    let (ours, theirs) = Channel::pair().unwrap();
    worker.attach(CallerKind::Egress, theirs).await.unwrap();
    let egress = EgressClient::new(ours);
    let granted = egress.grant("sesn_1", "ledger-api", &session().digest, Purpose::Inject).await.unwrap();
    let (secret, kept) = (granted.secret, granted.kept.unwrap());
    assert!(kept.counts());
    #[expect(clippy::disallowed_methods, reason = "the test compares what was granted")]
    let granted = secret.expose() == VALUE.as_bytes();
    assert!(granted);
    assert_eq!(egress.placeholders().await.unwrap()[0].placeholder, issued[0].placeholder);

    let (ours, theirs) = Channel::pair().unwrap();
    worker.attach(CallerKind::Worker, theirs).await.unwrap();
    let posing = EgressClient::new(ours);
    let refused = posing.grant("sesn_1", "ledger-api", &session().digest, Purpose::Inject).await.unwrap_err();
    assert!(matches!(&refused, CustodyError::Refused(refusal) if refusal.reason == RefusalReason::WrongConnection));
    assert!(!format!("{refused} {refused:?}").contains(VALUE));

    worker.close("sesn_1").await.unwrap();
    assert!(!kept.counts(), "what was granted counts no more once the session is closed");
    assert!(egress.grant("sesn_1", "ledger-api", &session().digest, Purpose::Inject).await.is_err());
    drop((worker, egress, posing));
    assert!(child.end(Duration::from_secs(20)).await.unwrap().success());
    drop(log_client);
    log_child.end(Duration::from_secs(20)).await.unwrap();
    assert_nothing_holds_the_secret(directory.path());
    let report = postern_audit::verify(&directory.path().join("log")).unwrap();
    assert!(report.records >= 8, "{report:?}");
}

fn assert_nothing_holds_the_secret(directory: &Path) {
    for part in ["own", "log"] {
        for entry in std::fs::read_dir(directory.join(part)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(VALUE.len()).any(|window| window == VALUE.as_bytes()), "{}", path.display());
        }
    }
}

#[tokio::test]
async fn when_the_log_dies_no_secret_is_handed_out_and_the_role_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log_child, _log_client, socket) = log(directory.path()).await;
    let (mut child, worker) = begun(directory.path(), &socket).await;
    drop(socket);
    worker.open(session()).await.unwrap();
    let (ours, theirs) = Channel::pair().unwrap();
    worker.attach(CallerKind::Egress, theirs).await.unwrap();
    let egress = EgressClient::new(ours);
    log_child.kill().unwrap();
    assert!(egress.grant("sesn_1", "ledger-api", &session().digest, Purpose::Inject).await.is_err());
    worker.gone().await;
    assert!(!child.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_role_that_cannot_begin_says_every_reason_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (_log_child, _log_client, socket) = log(directory.path()).await;
    let mut wrong = configuration(directory.path());
    wrong.document.text = "config = 1\n[zone.a]\nenvironment = 5\nnonsense = true\n".to_owned();
    let starter = Starter::itself(std::env::current_exe().unwrap());
    let (mut child, _client, ready) = postern_custody::start(&starter, &wrong, &socket).await.unwrap();
    assert!(ready.problems.len() >= 2, "{:?}", ready.problems);
    assert!(!child.wait().await.unwrap().success());
}

#[test]
fn the_store_opens_while_nothing_runs() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.set("ledger-api", VALUE.as_bytes().to_vec(), false).unwrap();
    assert_eq!(Store::open(directory.path()).unwrap().list().unwrap()[0].name, "ledger-api");
}

/// Further connections to a custody, as `kind`.
async fn attached(worker: &Client, kind: CallerKind) -> Channel {
    let (ours, theirs) = Channel::pair().unwrap();
    worker.attach(kind, theirs).await.unwrap();
    ours
}

#[tokio::test]
async fn a_connection_beyond_those_that_are_served_is_closed_until_one_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (_log_child, _log_client, socket) = log(directory.path()).await;
    let (mut child, worker) = begun(directory.path(), &socket).await;
    drop(socket);
    let connect = async || EgressClient::new(attached(&worker, CallerKind::Egress).await);
    let mut served = Vec::new();
    for _ in 0..64 {
        let egress = connect().await;
        egress.placeholders().await.unwrap();
        served.push(egress);
    }
    assert!(connect().await.placeholders().await.is_err());
    served.pop();
    let again = async { while connect().await.placeholders().await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("its place is free");
    drop((worker, served));
    assert!(child.end(Duration::from_secs(20)).await.unwrap().success());
}

#[tokio::test]
async fn a_question_is_as_long_as_its_asker_needs_and_a_longer_one_ends_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let (_log_child, _log_client, socket) = log(directory.path()).await;
    let (mut child, worker) = begun(directory.path(), &socket).await;
    drop(socket);
    let (of_egress, of_gateway) = (512 << 10, 16 << 20);
    for (kind, bytes, is_read) in [
        (CallerKind::Egress, of_egress - 1024, true),
        (CallerKind::Egress, of_egress, false),
        (CallerKind::Gateway, of_gateway - 1024, true),
        (CallerKind::Gateway, of_gateway, false),
    ] {
        let caller: Caller<String, u64> = Caller::new(attached(&worker, kind).await, 1 << 20);
        let answer = caller.call("x".repeat(bytes)).await.unwrap_err();
        // No question of custody's, which is said of what was read to its end.
        assert_eq!(matches!(answer, CallError::Misread(_)), is_read, "{kind:?} {bytes}: {answer}");
    }
    drop(worker);
    assert!(child.end(Duration::from_secs(20)).await.unwrap().success());
}

/// Whether an answer of this many bytes is read on, that never ends.
fn reads_on(mut asked: UnixStream, bytes: u32) -> bool {
    asked.read_exact(&mut [0; 1]).unwrap();
    asked.write_all(&bytes.to_le_bytes()).unwrap();
    // More than lies in a socket unread.
    asked.write_all(&vec![b' '; 1 << 20]).is_ok()
}

#[tokio::test]
async fn an_answer_has_a_longest_length_and_a_longer_one_is_not_waited_for() {
    let limit = 64 << 20;
    for (bytes, is_read) in [(limit, true), (limit + 1, false)] {
        for kind in [CallerKind::Worker, CallerKind::Egress, CallerKind::Gateway] {
            let (ours, theirs) = Channel::pair().unwrap();
            let answering = tokio::task::spawn_blocking(move || reads_on(theirs.into(), bytes));
            let outcome = match kind {
                CallerKind::Worker => Client::new(ours).close("sesn_1").await,
                CallerKind::Egress => EgressClient::new(ours).placeholders().await.map(|_| ()),
                _ => GatewayClient::new(ours).placeholders().await.map(|_| ()),
            };
            assert_eq!(outcome, Err(CustodyError::Gone));
            assert_eq!(answering.await.unwrap(), is_read, "{kind:?} {bytes}");
        }
    }
}

//! The keeper for real: processes that join or start, are killed, or should not be there. This test program is every role (`exe contender` runs the test of
//! that name, with a socket as descriptor 0).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use postern_custody::keeper::{self, JoinRefusal, Keeper, KeeperError, Part, Settings};
use postern_custody::store::Store;
use postern_custody::{
    CallerKind, Client, Configuration, CustodyError, EgressClient, GatewayClient, OpenSession, Purpose, RefusalReason,
    Reload, RouteGrant, RoutePurpose,
};
use postern_exec::WireBytes;
use postern_exec::asynchronous::Channel;
use postern_exec::role::{self, First, Starter};
use postern_policy::{Document, Zones};
use postern_secret::canary::search;
use postern_secret::seal::{Binding, Recipient, SealedCredential, seal};
use postern_secret::{Secret, SecretBytes};
use serde::de::DeserializeOwned;

const VALUE: &str = "s3cret-Value-of-the-ledger";
const WIKI: &str = "the-wiki's-0wn-s3cret-token";
const TOKEN: &str = "the-user's-0wn-bearer-t0ken";
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
[[zone.ledger.mcp]]
server = "wiki"
tools = ["*"]
[[zone.ledger.mcp]]
server = "crm"
tools = ["*"]
[[gateway.route]]
host = "wiki"
upstream = "http://127.0.0.1:9300/mcp"
addresses = ["127.0.0.0/8"]
credential = { source = "store:wiki-token", header = "authorization", format = "Bearer {secret}" }
[[gateway.route]]
host = "crm"
upstream = "http://127.0.0.1:9301/mcp"
addresses = ["127.0.0.0/8"]
credential = { source = "api:" }
"#;

/// Runs a role: by hand it fails, started as a role it succeeds.
fn run<C: DeserializeOwned, M: Future<Output = ExitCode>>(main: impl FnOnce(First<C>) -> M) {
    let by_hand =
        std::fs::read_link("/proc/self/fd/0").is_ok_and(|link| !link.to_string_lossy().starts_with("socket:"));
    let Ok(first) = First::receive() else { return assert!(by_hand) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let code = runtime.block_on(main(first));
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
}

#[test]
fn audit() {
    run(postern_audit::process_main);
}

#[test]
fn custody() {
    run(postern_custody::process_main);
}

/// A worker or gateway of its own: joins or starts, says which, and ends when it is told to or its custody is gone.
#[test]
fn contender() {
    run(async |first: First<PathBuf>| {
        let (perimeter, _, mut channel) = first.into_parts().unwrap();
        let keeper = match keeper::join_or_start(settings(&perimeter), CallerKind::Worker).await {
            Ok(keeper) => keeper,
            Err(error) => {
                channel.send(&format!("refused: {error}"), &[]).await.unwrap();
                return ExitCode::SUCCESS;
            }
        };
        channel.send(&format!("{:?} {}", keeper.part(), keeper.standing().audit_key), &[]).await.unwrap();
        tokio::select! {
            _ = channel.receive::<()>(64) => {}
            () = keeper.gone() => { let _told = channel.send("gone", &[]).await; }
        }
        keeper.end().await;
        ExitCode::SUCCESS
    });
}

fn settings(perimeter: &Path) -> Settings {
    Settings {
        starter: Starter::itself(std::env::current_exe().unwrap()),
        perimeter: perimeter.to_owned(),
        audit: perimeter.join("audit"),
        custody: Configuration {
            document: Document::parse("postern.toml", CONFIGURATION).unwrap().text().clone(),
            environments: names(),
            directory: perimeter.join("custody"),
            snapshot: BTreeMap::from([("LEDGER".to_owned(), WireBytes::new(VALUE.as_bytes().to_vec()))]),
        },
    }
}

fn names() -> BTreeMap<String, String> {
    BTreeMap::from([("default".to_owned(), "env_1".to_owned())])
}

fn digest() -> String {
    let zones = Zones::load(&Document::parse("postern.toml", CONFIGURATION).unwrap(), &names()).unwrap();
    zones.named("ledger").unwrap().digest().to_owned()
}

fn routes_digest(text: &str) -> String {
    postern_policy::Routes::load(&Document::parse("postern.toml", text).unwrap()).unwrap().digest().to_owned()
}

fn session(name: &str) -> OpenSession {
    OpenSession {
        session: name.to_owned(),
        agent: None,
        zone: "ledger".to_owned(),
        digest: digest(),
        variables: Vec::new(),
    }
}

fn call(route: &str) -> RouteGrant {
    RouteGrant {
        route: route.to_owned(),
        routes_digest: routes_digest(CONFIGURATION),
        session: "sesn_1".to_owned(),
        agent: None,
        tool_use: Some("toolu_1".to_owned()),
        purpose: RoutePurpose::Call { zone: "ledger".to_owned(), policy_digest: digest() },
        mcp_url: format!("https://{route}.t1.tunnel.localhost/mcp"),
        sealed: None,
    }
}

async fn stand(perimeter: &Path, kind: CallerKind) -> Keeper {
    keeper::join_or_start(settings(perimeter), kind).await.unwrap()
}

fn channel(socket: OwnedFd) -> Channel {
    Channel::new(socket).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the test compares what was granted")]
fn text(secret: &SecretBytes) -> &str {
    std::str::from_utf8(secret.expose()).unwrap()
}

/// A contender and its first word.
async fn contend(perimeter: &Path) -> (role::Child, Channel, String) {
    let starter = Starter::itself(std::env::current_exe().unwrap());
    role::start_and_wait("contender", &perimeter.to_owned(), &starter, &[]).await.unwrap()
}

async fn contest(perimeter: &Path, contenders: usize) -> Vec<(role::Child, Channel, String)> {
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..contenders {
        let perimeter = perimeter.to_owned();
        all.spawn(async move { contend(&perimeter).await });
    }
    let mut stood = all.join_all().await;
    stood.sort_by(|one, other| other.2.cmp(&one.2));
    let (keeper, joined) = stood.split_first().unwrap();
    assert!(keeper.2.starts_with("Started"), "{}", keeper.2);
    for (_, _, word) in joined {
        assert_eq!(word.as_str(), keeper.2.replace("Started", "Joined"));
    }
    stood
}

#[tokio::test(flavor = "multi_thread")]
async fn of_processes_that_start_at_one_time_one_keeps_and_the_others_join() {
    let directory = tempfile::tempdir().unwrap();
    let perimeter = directory.path().join("perimeter");
    for _ in 0..3 {
        let mut stood = contest(&perimeter, 6).await;
        // Those who joined leave first; the keeper ends in good order.
        while let Some((mut child, channel, _)) = stood.pop() {
            drop(channel);
            assert!(child.end(Duration::from_secs(20)).await.unwrap().success());
        }
        assert!(!perimeter.join("custody.sock").exists());
        let report = postern_audit::verify(&perimeter.join("audit")).unwrap();
        assert_eq!(report.unsigned, 1, "only the last checkpoint itself is unsigned: {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_keeper_is_killed_those_who_joined_end_and_one_of_their_successors_keeps() {
    let directory = tempfile::tempdir().unwrap();
    let perimeter = directory.path().join("perimeter");
    for _ in 0..3 {
        let mut stood = contest(&perimeter, 3).await;
        let (mut keeper, _channel, _) = stood.remove(0);
        keeper.kill().unwrap();
        // Successors start while the old processes are still ending.
        let successors = contest(&perimeter, 3).await;
        for (mut child, mut channel, _) in stood {
            let (word, _) = channel.receive::<String>(64).await.unwrap().unwrap();
            assert_eq!(word, "gone");
            assert!(child.wait().await.unwrap().success());
        }
        keeper.wait().await.unwrap();
        for (mut child, channel, _) in successors.into_iter().rev() {
            drop(channel);
            assert!(child.end(Duration::from_secs(20)).await.unwrap().success());
        }
    }
    postern_audit::verify(&perimeter.join("audit")).unwrap();
}

#[tokio::test]
async fn worker_and_gateway_share_one_instance_each_with_its_own_verbs_and_no_secret_stays_behind() {
    let directory = tempfile::tempdir().unwrap();
    // Longer than a socket's address may be.
    let perimeter = directory.path().join("a-directory-with-a-long-name-".repeat(6)).join("perimeter");
    let store = Store::open(&perimeter.join("custody")).unwrap();
    store.set("wiki-token", WIKI.as_bytes().to_vec(), false).unwrap();
    let worker_side = stand(&perimeter, CallerKind::Worker).await;
    let gateway_side = stand(&perimeter, CallerKind::Gateway).await;
    assert_eq!((worker_side.part(), gateway_side.part()), (Part::Started, Part::Joined));
    assert_eq!(worker_side.standing(), gateway_side.standing());
    for name in ["custody.sock", "audit.sock", "keeper.lock"] {
        assert_eq!(std::fs::metadata(perimeter.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }

    let worker = Client::new(channel(worker_side.custody(CallerKind::Worker).await.unwrap()));
    let egress = EgressClient::new(channel(worker_side.custody(CallerKind::Egress).await.unwrap()));
    let gateway = GatewayClient::new(channel(gateway_side.custody(CallerKind::Gateway).await.unwrap()));
    let issued = worker.open(session("sesn_1")).await.unwrap().issued;
    let granted = egress.grant("sesn_1", "ledger-api", &digest(), Purpose::Inject).await.unwrap();
    assert_eq!(text(&granted.secret), VALUE);
    assert_eq!(text(&gateway.grant(call("wiki")).await.unwrap()), WIKI);
    assert_eq!(gateway.placeholders().await.unwrap()[0].placeholder, issued[0].placeholder);

    let binding = Binding {
        client_id: None,
        injection: None,
        refresh: None,
        secret_name: None,
        credential: "vcrd_1".to_owned(),
        hosts: Vec::new(),
        kind: "static_bearer".to_owned(),
        mcp_url: Some("https://crm.t1.tunnel.localhost/mcp".to_owned()),
        token_endpoint: None,
        vault: "vlt_1".to_owned(),
        workspace: "wrkspc_default".to_owned(),
    };
    let public_key = gateway_side.standing().perimeter_public_key.parse().unwrap();
    let to = [Recipient { perimeter_id: "pmtr_1".to_owned(), public_key }];
    let sealed = seal(&Secret::new(TOKEN.as_bytes().to_vec()), &binding, &to).unwrap();
    let mut with_credential = call("crm");
    with_credential.sealed = Some(SealedCredential { binding, sealed });
    assert_eq!(text(&gateway.grant(with_credential.clone()).await.unwrap()), TOKEN);
    with_credential.sealed.as_mut().unwrap().binding.vault = "vlt_2".to_owned();
    assert_refused(gateway.grant(with_credential).await, RefusalReason::CredentialUnopenable);
    let mut known: Vec<_> = gateway.known_for_scrubbing("sesn_1").await.unwrap();
    known.sort_by_key(|secret| text(secret).to_owned());
    assert_eq!(known.iter().map(text).collect::<Vec<_>>(), [TOKEN, WIKI]);

    let posing = GatewayClient::new(channel(gateway_side.custody(CallerKind::Worker).await.unwrap()));
    assert_refused(posing.grant(call("wiki")).await, RefusalReason::WrongConnection);
    let posing = Client::new(channel(gateway_side.custody(CallerKind::Gateway).await.unwrap()));
    assert_refused(posing.open(session("sesn_2")).await, RefusalReason::WrongConnection);
    let (_ours, theirs) = Channel::pair().unwrap();
    assert_refused(posing.attach(CallerKind::Egress, theirs).await, RefusalReason::WrongConnection);

    gateway.freeze("sesn_1").await.unwrap();
    let frozen = egress.grant("sesn_1", "ledger-api", &digest(), Purpose::Inject).await;
    assert_refused(frozen, RefusalReason::SessionFrozen);
    worker.thaw("sesn_1").await.unwrap();
    egress.grant("sesn_1", "ledger-api", &digest(), Purpose::Inject).await.unwrap();
    gateway.revoke_grants("sesn_1").await.unwrap();
    assert_refused(gateway.grant(call("wiki")).await, RefusalReason::GrantsRevoked);

    gateway_side.end().await;
    worker_side.end().await;
    worker.gone().await;
    gateway.gone().await;
    let report = postern_audit::verify(&perimeter.join("audit")).unwrap();
    assert!(report.records >= 10, "{report:?}");
    assert_nothing_holds_a_secret(&perimeter);
}

fn assert_refused<T>(answer: Result<T, CustodyError>, reason: RefusalReason) {
    match answer {
        Err(CustodyError::Refused(refusal)) => assert_eq!(refusal.reason, reason),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("granted, not refused as {}", reason.code()),
    }
}

fn assert_nothing_holds_a_secret(directory: &Path) {
    let needles = [VALUE.as_bytes(), WIKI.as_bytes(), TOKEN.as_bytes()];
    let mut searched = 0;
    for part in ["custody", "audit"] {
        for entry in std::fs::read_dir(directory.join(part)).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(search(&std::fs::read(&path).unwrap(), &needles), [], "{}", path.display());
            searched += 1;
        }
    }
    assert!(searched >= 6, "{searched}");
}

#[tokio::test]
async fn a_session_ends_with_the_worker_that_joined_and_can_be_opened_by_its_successor() {
    let directory = tempfile::tempdir().unwrap();
    let perimeter = directory.path().join("perimeter");
    let gateway_side = stand(&perimeter, CallerKind::Gateway).await;
    let worker_side = stand(&perimeter, CallerKind::Worker).await;
    let worker = Client::new(channel(worker_side.custody(CallerKind::Worker).await.unwrap()));
    let egress = EgressClient::new(channel(worker_side.custody(CallerKind::Egress).await.unwrap()));
    worker.open(session("sesn_1")).await.unwrap();
    drop(worker);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while egress.grant("sesn_1", "ledger-api", &digest(), Purpose::Inject).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "the session outlives its worker");
    }
    let successor = Client::new(channel(worker_side.custody(CallerKind::Worker).await.unwrap()));
    successor.open(session("sesn_1")).await.unwrap();
    worker_side.end().await;
    gateway_side.end().await;
}

#[tokio::test]
async fn who_read_another_configuration_does_not_join() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = stand(directory.path(), CallerKind::Worker).await;
    let mut other = settings(directory.path());
    other.custody.document.text.push_str("\n# edited\n");
    let refused = keeper::join_or_start(other, CallerKind::Gateway).await.err().unwrap();
    assert!(matches!(refused, KeeperError::Refused(JoinRefusal::OtherDocument)), "{refused}");
    assert!(refused.problems()[0].contains("restart both"));
    let mut moved = settings(directory.path());
    moved.custody.document.file = "/etc/postern/postern.toml".to_owned();
    let joined = keeper::join_or_start(moved, CallerKind::Gateway).await.unwrap();
    assert_eq!(joined.part(), Part::Joined);
    joined.end().await;
    keeper.end().await;
}

#[tokio::test]
async fn after_a_reload_those_join_who_read_the_new_document_or_still_go_by_the_old() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = stand(directory.path(), CallerKind::Worker).await;
    let joined = stand(directory.path(), CallerKind::Gateway).await;
    let gateway = GatewayClient::new(channel(joined.custody(CallerKind::Gateway).await.unwrap()));
    let store = Store::open(&directory.path().join("custody")).unwrap();
    store.set("wiki-token", WIKI.as_bytes().to_vec(), false).unwrap();
    assert_eq!(text(&gateway.grant(call("wiki")).await.unwrap()), WIKI);

    let mut other = settings(directory.path());
    other.custody.document.text.push_str(
        "\n[[gateway.route]]\nhost = \"more\"\nupstream = \"http://127.0.0.1:9309/mcp\"\naddresses = [\"127.0.0.0/8\"]\ncredential = { source = \"env:MORE\", header = \"x-key\", format = \"{secret}\" }\n",
    );
    let document = other.custody.document.clone();
    let read = document.text.clone();
    let snapshot = BTreeMap::from([("MORE".to_owned(), WireBytes::new(TOKEN.as_bytes().to_vec()))]);
    let reload = Reload { document: document.clone(), environments: names(), snapshot };
    assert_eq!(gateway.reload(reload).await.unwrap(), Vec::<String>::new());
    joined.reads(&document);

    let probe =
        |text: &str| RouteGrant { purpose: RoutePurpose::Probe, routes_digest: routes_digest(text), ..call("more") };
    assert_eq!(text(&gateway.grant(probe(&read)).await.unwrap()), TOKEN);
    let again = GatewayClient::new(channel(joined.custody(CallerKind::Gateway).await.unwrap()));
    assert_eq!(text(&again.grant(probe(&read)).await.unwrap()), TOKEN);
    let successor = keeper::join_or_start(other, CallerKind::Gateway).await.unwrap();
    assert_eq!(successor.part(), Part::Joined);
    let old = stand(directory.path(), CallerKind::Worker).await;
    old.end().await;
    successor.end().await;

    // A worker that has read it too leaves nobody who goes by the old one.
    let worker = Client::new(channel(keeper.custody(CallerKind::Worker).await.unwrap()));
    let reload = Reload { document, environments: names(), snapshot: BTreeMap::new() };
    assert_eq!(worker.reload(reload).await.unwrap(), Vec::<String>::new());
    assert_eq!(text(&again.grant(probe(&read)).await.unwrap()), TOKEN, "the variable stays");
    joined.end().await;
    keeper.end().await;
}

/// What a socket answers to these bytes.
async fn answer_to(socket: PathBuf, bytes: Vec<u8>) -> String {
    tokio::task::spawn_blocking(move || {
        #[expect(clippy::disallowed_methods, reason = "the test is what should not be there")]
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _cut_short = stream.write_all(&bytes);
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(answer.get(4..).unwrap_or_default()).into_owned()
    })
    .await
    .unwrap()
}

fn frame(body: &str) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_le_bytes(), body.as_bytes()].concat()
}

#[tokio::test]
async fn hostile_and_slow_hellos_are_refused_or_outwaited_and_the_next_process_joins() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = stand(directory.path(), CallerKind::Worker).await;
    let socket = |name: &str| directory.path().join(name);
    let other_version = r#"{"version":"0.0.0","kind":"gateway","document":""}"#;
    let other_kind = r#"{"version":"0.1.0","kind":"root","document":""}"#;
    let table = [
        ("custody.sock", frame(other_version), "other_version"),
        ("audit.sock", frame(other_version), "other_version"),
        ("custody.sock", frame(other_kind), "misread"),
        ("audit.sock", frame("{}"), "misread"),
        ("custody.sock", b"GET / HTTP/1.1\r\n\r\n".to_vec(), "misread"),
        ("custody.sock", u32::MAX.to_le_bytes().to_vec(), "misread"),
        ("custody.sock", (100_000_u32).to_le_bytes().to_vec(), "misread"),
        ("custody.sock", Vec::new(), ""),
    ];
    for (name, bytes, code) in table {
        let told = answer_to(socket(name), bytes.clone()).await;
        let expected = if code.is_empty() { String::new() } else { format!("{{\"refused\":\"{code}\"}}") };
        assert_eq!(told, expected, "{name} {:?}", String::from_utf8_lossy(&bytes));
    }
    #[expect(clippy::disallowed_methods, reason = "the test is what should not be there")]
    let silent: Vec<_> = (0..20).map(|_| UnixStream::connect(socket("custody.sock")).unwrap()).collect();
    let joined = stand(directory.path(), CallerKind::Gateway).await;
    assert_eq!(joined.part(), Part::Joined);
    drop(silent);
    joined.end().await;
    keeper.end().await;
    let alarms = postern_audit::entries(&directory.path().join("audit"))
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.record.reason.as_deref() == Some("misread"))
        .count();
    assert_eq!(alarms, 2, "one for each socket, however often it happens within a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_sixteen_who_say_nothing_the_next_waits_until_one_of_them_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = stand(directory.path(), CallerKind::Worker).await;
    let socket = directory.path().join("custody.sock");
    #[expect(clippy::disallowed_methods, reason = "the test is what should not be there")]
    let silent: Vec<_> = (0..16).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let told = answer_to(socket, frame(r#"{"version":"0.0.0","kind":"gateway","document":""}"#)).await;
    assert_eq!(told, r#"{"refused":"other_version"}"#);
    let is_closed = |mut stream: UnixStream| {
        stream.set_nonblocking(true).unwrap();
        matches!(stream.read(&mut [0]), Ok(0))
    };
    assert!(silent.into_iter().any(is_closed), "it was answered while all of them had their places");
    keeper.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_keeper_that_lets_nobody_join_is_waited_for_twenty_seconds_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(directory.path().join("keeper.lock")).unwrap();
    lock.lock().unwrap();
    let began = tokio::time::Instant::now();
    let joining = keeper::join_or_start(settings(directory.path()), CallerKind::Gateway);
    let joining = tokio::time::timeout(Duration::from_secs(60), joining).await.expect("it is given up");
    let refused = joining.err().unwrap();
    assert!(matches!(&refused, KeeperError::Slow { lock } if lock.ends_with("keeper.lock")), "{refused}");
    assert_eq!(began.elapsed().as_secs(), 20);
}

#[tokio::test]
async fn a_directory_that_others_can_write_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = keeper::join_or_start(settings(directory.path()), CallerKind::Worker).await.err().unwrap();
    assert!(matches!(refused, KeeperError::Exposed { .. }), "{refused}");
}

#[tokio::test]
async fn one_that_cannot_begin_frees_the_lock_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let mut wrong = settings(directory.path());
    wrong.custody.directory = PathBuf::from("/dev/null/custody");
    let refused = keeper::join_or_start(wrong, CallerKind::Worker).await.err().unwrap();
    assert!(matches!(&refused, KeeperError::Custody(problems) if !problems.is_empty()), "{refused}");
    let keeper = stand(directory.path(), CallerKind::Worker).await;
    assert_eq!(keeper.part(), Part::Started);
    keeper.end().await;
}

/// Needs root: only root can be somebody else. Elsewhere the kernel's answer to the first question is the whole test.
#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_refused_even_where_the_modes_let_it_connect() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = stand(directory.path(), CallerKind::Worker).await;
    if !rustix::process::geteuid().is_root() {
        return keeper.end().await;
    }
    let connect = |socket: &str| {
        let program = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1]); print(s.recv(4096)[4:].decode())";
        #[expect(clippy::disallowed_methods, reason = "the test needs another user's process")]
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c", program]);
        command.arg(directory.path().join(socket)).output()
    };
    for socket in ["custody.sock", "audit.sock"] {
        let blocked = connect(socket).unwrap();
        assert!(String::from_utf8_lossy(&blocked.stderr).contains("PermissionError"), "{blocked:?}");
        std::fs::set_permissions(directory.path().join(socket), std::fs::Permissions::from_mode(0o666)).unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let refused = connect(socket).unwrap();
        assert_eq!(String::from_utf8_lossy(&refused.stdout).trim(), r#"{"refused":"foreign_user"}"#, "{refused:?}");
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    keeper.end().await;
    let entries = postern_audit::entries(&directory.path().join("audit")).unwrap().map(Result::unwrap);
    assert_eq!(entries.filter(|entry| entry.record.reason.as_deref() == Some("foreign_user")).count(), 2);
}

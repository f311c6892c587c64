//! scratch
#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use postern_custody::{CallerKind, Configuration, GatewayClient, RouteGrant, RoutePurpose, store::Store};
use postern_exec::asynchronous::Channel;
use postern_policy::Document;
const C: &str = r#"
config = 1
[[gateway.route]]
host = "wiki"
upstream = "http://127.0.0.1:9300/mcp"
addresses = ["127.0.0.0/8"]
credential = { source = "store:wiki-token", header = "authorization", format = "Bearer {secret}" }
"#;
fn run(main: impl Future<Output = std::process::ExitCode>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(main);
}
#[test] fn audit() { run(postern_audit::process_main()); }
#[test] fn custody() { run(postern_custody::process_main()); }
#[tokio::test]
async fn cost() {
    let dir = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let (_c, log, _) = postern_audit::start(&exe, &dir.path().join("log")).await.unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    log.attach("custody", theirs.into()).await.unwrap();
    let store = Store::open(&dir.path().join("own")).unwrap();
    for i in 0..20 { store.set(&format!("other-{i}"), format!("the-wiki's-0wn-s3cret-token-{i}").into_bytes(), false).unwrap(); }
    store.set("wiki-token", b"the-wiki's-0wn-s3cret-token".to_vec(), false).unwrap();
    let configuration = Configuration { document: Document::parse("p", C).unwrap().text().clone(), environments: BTreeMap::new(), directory: dir.path().join("own"), snapshot: BTreeMap::new() };
    let (_child, worker, ready) = postern_custody::start(&exe, &configuration, &ours.into()).await.unwrap();
    assert!(ready.problems.is_empty(), "{ready:?}");
    let (ours, theirs) = Channel::pair().unwrap();
    worker.attach(CallerKind::Gateway, theirs).await.unwrap();
    let gateway = GatewayClient::new(ours);
    let grant = || RouteGrant { route: "wiki".into(), session: "sesn_1".into(), agent: None, tool_use: None, purpose: RoutePurpose::Probe, mcp_url: "https://wiki.t/mcp".into(), sealed: None };
    for _ in 0..3 {
        let t = std::time::Instant::now();
        for _ in 0..500 { gateway.grant(grant()).await.unwrap(); }
        eprintln!("grant {:?}", t.elapsed() / 500);
        let t = std::time::Instant::now();
        for _ in 0..500 { gateway.known_for_scrubbing("sesn_1").await.unwrap(); }
        eprintln!("known {:?}", t.elapsed() / 500);
    }
}

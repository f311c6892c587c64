//! The worker's client against the process' own serving loop, over a real channel with descriptors.

use std::{process::ExitCode, sync::Arc};

use postern_exec::{asynchronous::Channel, rpc::CallError};
use tokio::net::TcpStream;

use super::stand::{Stand, get, talk};
use crate::{
    client::{Client, EgressError, Network},
    message::{OpenSession, SessionPlaceholder},
    process,
};

fn open(session: &str, digest: String) -> OpenSession {
    OpenSession {
        session: session.to_owned(),
        agent: None,
        zone_name: "t".to_owned(),
        digest,
        placeholders: vec![SessionPlaceholder {
            credential: "key".to_owned(),
            placeholder: "pstn0123456789abcdefghijklmn".to_owned(),
        }],
        repositories: Vec::new(),
    }
}

fn code(error: EgressError) -> String {
    match error {
        EgressError::Failed { code, .. } => code,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_worker_opens_attaches_collects_and_closes() {
    let Stand { registry, .. } = Stand::start().await;
    let digest = registry.zone_digest("t");
    let (served, end) = Channel::pair().unwrap();
    let serving = tokio::spawn(process::serve(Arc::new(registry), served));
    let client = Client::over(Channel::new(end).unwrap());

    let opened = client.open(open("sesn_w", digest.clone())).await.unwrap();
    assert!(opened.ca_certificate_pem.contains("BEGIN CERTIFICATE"));
    assert_eq!(code(client.open(open("sesn_w", digest.clone())).await.unwrap_err()), "session_open");
    assert_eq!(code(client.open(open("sesn_v", "sha256:other".to_owned())).await.unwrap_err()), "zone_mismatch");
    assert_eq!(code(client.refusals("sesn_none").await.unwrap_err()), "session_unknown");

    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    let network = Network {
        redirect_v4: None,
        redirect_v6: None,
        dns_udp_v4: None,
        dns_udp_v6: None,
        dns_tcp_v4: None,
        dns_tcp_v6: None,
        proxy: Some(proxy.into()),
        refused_udp: None,
    };
    client.attach("sesn_w", network).await.unwrap();
    client.current_tool_use("sesn_w", Some("sevt_1")).await.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        String::from_utf8(get("http", "evil.test", 80, "/", &[])).unwrap().replacen(' ', " http://evil.test", 1);
    assert_eq!(talk(&mut stream, request.as_bytes()).await.reason().as_deref(), Some("host_not_allowed"));
    let mut ssh = TcpStream::connect(address).await.unwrap();
    let _closed = talk(&mut ssh, b"SSH-2.0-x\r\n").await;
    let told = client.refusals("sesn_w").await.unwrap();
    assert_eq!((told.len(), told[0].reason.as_str()), (1, "protocol_unknown"));
    assert!(client.refusals("sesn_w").await.unwrap().is_empty());

    client.close("sesn_w").await.unwrap();
    client.close("sesn_w").await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    drop(client);
    assert_eq!(serving.await.unwrap(), ExitCode::SUCCESS);
}

#[tokio::test]
async fn a_message_has_a_longest_length_and_a_longer_one_ends_the_process() {
    let Stand { registry, .. } = Stand::start().await;
    let (served, end) = Channel::pair().unwrap();
    let serving = tokio::spawn(process::serve(Arc::new(registry), served));
    let client = Client::over(Channel::new(end).unwrap());
    let envelope = r#"{"id":1,"ask":{"ask":"current_tool_use","session":"s","tool_use":""}}"#.len();
    let of = |bytes: usize| "x".repeat(bytes - envelope);
    assert_eq!(code(client.current_tool_use("s", Some(&of(2 << 20))).await.unwrap_err()), "session_unknown");
    let longer = client.current_tool_use("s", Some(&of((2 << 20) + 1))).await.unwrap_err();
    assert!(matches!(longer, EgressError::Call(CallError::Gone)), "{longer}");
    assert_eq!(serving.await.unwrap(), ExitCode::from(3));
}

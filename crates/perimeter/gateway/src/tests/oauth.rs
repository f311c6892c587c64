//! Renewing and validating a vault's OAuth credential, with a token endpoint behind real TLS and a real MCP server.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use postern_audit::{Decision, Kind, Memory};
use postern_custody::keeper::Standing;
use postern_model::{
    control::{CommandBody, CommandRefusal, OauthParts, OauthRefreshParts, OauthRefreshed, OauthValidated, Reply},
    vault::{RefreshStatus, TokenEndpointAuth, Verdict},
};
use postern_net::control::ControlHandler;
use postern_policy::{Reason, document::DocumentText};
use postern_secret::{
    detect::Detector,
    seal::{Binding, RefreshTerms, Sealed, SealedCredential, Wrap},
};
use postern_testkit::{
    certificate::{self, Asks},
    private_mcp::{Manner, PrivateMcp},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_rustls::TlsAcceptor;

use super::stand::{
    Behaviour, CLIENT_SECRET, DOMAIN, PERIMETER, REFRESH_TOKEN, Reply as Answer, SECRET, Seen, Stand, document, order,
    serve_upstream, whole,
};
use crate::{control::Handler, limits, process};

/// A stand whose gateway lists a token endpoint that answers as a test says.
struct Login {
    stand: Stand,
    seen: Arc<Mutex<Vec<Seen>>>,
    endpoint: String,
    handler: Handler,
    listing: DocumentText,
}

fn handler(stand: &Stand) -> Handler {
    let standing = Standing { audit_key: "a".into(), perimeter_public_key: "b".into(), degraded: Vec::new() };
    Handler::new(Arc::clone(&stand.gateway), "host".to_owned(), &standing)
}

impl Login {
    async fn new(behaviour: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::before(1, behaviour).await
    }

    /// Before an MCP server at this port.
    async fn before(mcp: u16, behaviour: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let certificates = certificate::make(&["127.0.0.1"], Asks::Nobody).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://127.0.0.1:{}/oauth/token/?tenant=1", listener.local_addr().unwrap().port());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (behaviour, told): (Arc<Behaviour>, _) = (Arc::new(Box::new(behaviour)), Arc::clone(&seen));
        let acceptor = TlsAcceptor::from(certificates.server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, behaviour, told) = (acceptor.clone(), Arc::clone(&behaviour), Arc::clone(&told));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve_upstream(stream, behaviour, told, Memory::new()).await;
                    }
                });
            }
        });
        let stand = Stand::before(mcp, Memory::new(), Arc::default());
        let mut listing: DocumentText = document(mcp);
        listing.text.push_str(&format!(
            "\n[[gateway.token_endpoint]]\nurl = \"{endpoint}\"\naddresses = [\"127.0.0.0/8\"]\nca_file = \"login.pem\"\n"
        ));
        listing.attachments.insert("login.pem".to_owned(), certificates.ca_pem);
        assert_eq!(process::reload(&stand.gateway, order(listing.clone())).await, Vec::<String>::new());
        let handler = handler(&stand);
        Self { stand, seen, endpoint, handler, listing }
    }

    /// The same after the gateway was killed and started again.
    async fn restarted(self) -> Self {
        let stand = self.stand.restarted();
        assert_eq!(process::reload(&stand.gateway, order(self.listing.clone())).await, Vec::<String>::new());
        Self { handler: handler(&stand), stand, ..self }
    }

    fn part(&self, auth: TokenEndpointAuth, kind: &str, ciphertext: &str) -> String {
        let resource = Some("https://wiki.example/mcp".to_owned());
        let terms = RefreshTerms { auth: auth.as_str().to_owned(), resource };
        let binding = Binding {
            client_id: Some("the client".to_owned()),
            credential: "vcrd_1".to_owned(),
            hosts: Vec::new(),
            injection: None,
            kind: kind.to_owned(),
            mcp_url: Some(format!("https://vault.{DOMAIN}/mcp")),
            refresh: Some(terms),
            secret_name: None,
            token_endpoint: Some(self.endpoint.clone()),
            vault: "vlt_1".to_owned(),
            workspace: "wrkspc_default".to_owned(),
        };
        let sealed =
            Sealed { version: 3, nonce: String::new(), ciphertext: ciphertext.to_owned(), wraps: vec![wrap()] };
        SealedCredential { binding, sealed }.encode()
    }

    fn parts(&self, auth: TokenEndpointAuth) -> OauthParts {
        let client_secret =
            (auth != TokenEndpointAuth::None {}).then(|| self.part(auth, "mcp_oauth.client_secret", "secret"));
        OauthParts {
            access: self.part(auth, "mcp_oauth", "access"),
            refresh: Some(OauthRefreshParts {
                refresh_token: self.part(auth, "mcp_oauth.refresh_token", "refresh"),
                client_secret,
                scope: Some("read write".to_owned()),
            }),
        }
    }

    async fn refresh(&self, parts: OauthParts) -> OauthRefreshed {
        let command = CommandBody::OauthRefresh { parts: Box::new(parts) };
        match self.handler.obey(command).await {
            Ok(Reply::OauthRefreshed(refreshed)) => *refreshed,
            other => panic!("{other:?}"),
        }
    }

    async fn validate(&self, parts: OauthParts) -> OauthValidated {
        let command = CommandBody::OauthValidate { parts: Box::new(parts) };
        match self.handler.obey(command).await {
            Ok(Reply::OauthValidated(validated)) => {
                let shown = serde_json::to_string(&validated).unwrap();
                let secrets = [SECRET, REFRESH_TOKEN, CLIENT_SECRET].map(str::as_bytes);
                assert!(!Detector::new(secrets).is_in(shown.as_bytes()), "{shown}");
                *validated
            }
            other => panic!("{other:?}"),
        }
    }

    fn asked(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// As it was sealed to the perimeter.
fn wrap() -> Wrap {
    let public_key = PERIMETER.to_owned();
    Wrap { perimeter_id: "pmtr_1".to_owned(), public_key, enc: String::new(), key: String::new() }
}

fn basic() -> TokenEndpointAuth {
    TokenEndpointAuth::ClientSecretBasic {}
}

fn json(status: &str, body: &str) -> Answer {
    whole(status, "content-type: application/json\r\n", body.as_bytes())
}

fn tokens() -> Answer {
    json(
        "200 OK",
        r#"{"access_token": "new-access-token-0123456789", "token_type": "bearer",
        "refresh_token": "new-refresh-token-0123456789", "expires_in": 3600}"#,
    )
}

fn form_of(seen: &Seen) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'+' => bytes.push(b' '),
                b'%' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                }
                other => bytes.push(other),
            }
        }
        String::from_utf8(bytes).unwrap()
    };
    let body = String::from_utf8(seen.body.clone()).unwrap();
    let pairs = body.split('&').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

#[tokio::test]
async fn the_request_is_the_rfcs_for_each_way_a_client_says_who_it_is() {
    let basic_of = STANDARD.encode("the+client:client%3As3cret+of+the+client-01");
    let (none, post) = (TokenEndpointAuth::None {}, TokenEndpointAuth::ClientSecretPost {});
    for (auth, more, header) in [
        (none, vec![("client_id", "the client")], None),
        (post, vec![("client_id", "the client"), ("client_secret", CLIENT_SECRET)], None),
        (basic(), vec![], Some(format!("authorization: Basic {basic_of}"))),
    ] {
        let login = Login::new(|_| tokens()).await;
        let refreshed = login.refresh(login.parts(auth)).await;
        assert_eq!(refreshed.attempt.status, RefreshStatus::Succeeded, "{refreshed:?}");
        let [seen] = &login.asked()[..] else { panic!("once") };
        assert!(seen.head.starts_with("POST /oauth/token/?tenant=1 HTTP/1.1\r\n"), "{}", seen.head);
        assert!(seen.head.contains("content-type: application/x-www-form-urlencoded\r\n"), "{}", seen.head);
        let authorization = seen.head.lines().find(|line| line.starts_with("authorization"));
        assert_eq!(authorization.map(str::to_owned), header);
        let mut expected = vec![
            ("grant_type", "refresh_token"),
            ("refresh_token", REFRESH_TOKEN),
            ("scope", "read write"),
            ("resource", "https://wiki.example/mcp"),
        ];
        expected.extend(more);
        let form = form_of(seen);
        let form: Vec<_> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(form, expected);
        let fresh = login.stand.custody.fresh.lock().unwrap().clone();
        let [(access, Some(refresh), Some(expires))] = &fresh[..] else { panic!("{fresh:?}") };
        assert_eq!(
            (access.as_str(), refresh.as_str()),
            ("new-access-token-0123456789", "new-refresh-token-0123456789")
        );
        let renewed = refreshed.renewed.unwrap();
        assert_eq!(renewed.expires_at.unwrap().as_second(), *expires);
        assert!(renewed.access.contains("renewed") && renewed.refresh_token.is_some());
    }
}

#[tokio::test]
async fn an_endpoint_that_answers_otherwise_yields_no_token_and_shows_no_secret() {
    use RefreshStatus::{ConnectError, Failed};
    let leaking = format!(
        r#"{{"error": "invalid_grant", "error_description": "{REFRESH_TOKEN} of {CLIENT_SECRET} {}", "access_token": "hidden"}}"#,
        STANDARD.encode(REFRESH_TOKEN)
    );
    type Answers = Box<dyn Fn() -> Answer + Send + Sync>;
    let table: Vec<(&str, Answers, RefreshStatus, Reason, Option<u16>)> = vec![
        ("grant gone", Box::new(move || json("400 Bad Request", &leaking)), Failed, Reason::RefreshRefused, Some(400)),
        (
            "401",
            Box::new(|| json("401 No", r#"{"error": "invalid_client"}"#)),
            Failed,
            Reason::RefreshRefused,
            Some(401),
        ),
        (
            "redirect",
            Box::new(|| whole("307 Go", "location: https://evil.example/\r\n", b"")),
            Failed,
            Reason::RedirectRefused,
            Some(307),
        ),
        ("429", Box::new(|| json("429 Wait", "{}")), Failed, Reason::UpstreamUnreachable, Some(429)),
        ("503", Box::new(|| json("503 Down", "{}")), Failed, Reason::UpstreamUnreachable, Some(503)),
        ("not JSON", Box::new(|| json("200 OK", "access_token=hidden")), Failed, Reason::UpstreamProtocol, Some(200)),
        (
            "an error that calls itself a success",
            Box::new(|| json("200 OK", r#"{"error": "invalid_grant", "error_description": "hidden"}"#)),
            Failed,
            Reason::UpstreamProtocol,
            Some(200),
        ),
        (
            "encoded",
            Box::new(|| whole("200 OK", "content-encoding: gzip\r\n", br#"{"access_token": "hidden"}"#)),
            Failed,
            Reason::UpstreamProtocol,
            Some(200),
        ),
        (
            "huge",
            Box::new(|| json("200 OK", &format!(r#"{{"access_token": "hidden", "x": "{}"}}"#, "x".repeat(100_000)))),
            Failed,
            Reason::UpstreamProtocol,
            Some(200),
        ),
        (
            "no HTTP",
            Box::new(|| Answer::Close(vec![b"hidden\r\n\r\n".to_vec()])),
            ConnectError,
            Reason::UpstreamProtocol,
            None,
        ),
        ("closes", Box::new(|| Answer::Close(Vec::new())), ConnectError, Reason::UpstreamUnreachable, None),
        ("hangs", Box::new(|| Answer::Hang(Vec::new())), ConnectError, Reason::Timeout, None),
        (
            "trickles",
            Box::new(|| {
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
                Answer::Endless(head, b"1\r\nx\r\n".to_vec(), Duration::from_millis(100))
            }),
            ConnectError,
            Reason::Timeout,
            None,
        ),
    ];
    for (what, answers, status, reason, code) in table {
        let login = Login::new(move |_| answers()).await;
        let refreshed = login.refresh(login.parts(basic())).await;
        assert_eq!(refreshed.attempt.status, status, "{what}: {refreshed:?}");
        assert_eq!(refreshed.reason.as_ref().unwrap().code, reason.code(), "{what}: {refreshed:?}");
        assert_eq!(refreshed.attempt.http_response.as_ref().map(|response| response.status_code), code, "{what}");
        assert!(refreshed.renewed.is_none() && login.stand.custody.fresh.lock().unwrap().is_empty(), "{what}");
        let shown = serde_json::to_string(&refreshed).unwrap();
        let secrets = [REFRESH_TOKEN, CLIENT_SECRET, "hidden"].map(str::as_bytes);
        assert!(!Detector::new(secrets).is_in(shown.as_bytes()), "{what}: {shown}");
        assert_eq!(login.asked().len(), 1, "{what}: sent once, and nowhere else");
        let records = login.stand.records(Kind::CredentialRefreshed);
        let [record] = &records[..] else { panic!("{what}: {records:?}") };
        assert_eq!((record.decision, record.reason.as_deref()), (Decision::Deny, Some(reason.code())), "{what}");
        let troubles = login.stand.gateway.troubles.list();
        assert!(troubles.iter().any(|trouble| trouble.code == reason.code()), "{what}: it is in the status");
    }
}

#[tokio::test]
async fn an_error_is_shown_as_the_rfc_has_it_scrubbed_and_cut() {
    let long = "y".repeat(5000);
    let body =
        json!({"error": "invalid_grant", "error_description": format!("{REFRESH_TOKEN} {long}"), "id": "hidden"});
    let login = Login::new(move |_| json("400 Bad Request", &body.to_string())).await;
    let response = login.refresh(login.parts(basic())).await.attempt.http_response.unwrap();
    assert!(response.body_truncated && response.body.len() <= 2048 && response.content_type == "application/json");
    assert!(response.body.starts_with(r#"{"error":"invalid_grant""#), "{}", response.body);
    assert!(!response.body.contains("hidden") && response.body.contains("yyy"));
}

#[tokio::test]
async fn a_refresh_token_is_not_sent_to_an_endpoint_that_is_not_listed_nor_to_one_that_is_not_itself() {
    let login = Login::new(|_| tokens()).await;
    // The file of the stand alone: nothing is listed.
    assert!(process::reload(&login.stand.gateway, order(document(1))).await.is_empty());
    let refreshed = login.refresh(login.parts(basic())).await;
    let reason = refreshed.reason.unwrap();
    assert_eq!(reason.code, "token_endpoint_not_listed");
    assert!(reason.next_step.contains("[[gateway.token_endpoint]]") && reason.next_step.contains(&login.endpoint));
    assert_eq!((refreshed.attempt.status, login.asked().len()), (RefreshStatus::ConnectError, 0));

    let strangers = [
        // Another authority than its own, and an address that is not named.
        ("ca_file = \"login.pem\"", "", Reason::UpstreamUntrusted),
        ("[\"127.0.0.0/8\"]", "[\"10.0.0.0/8\"]", Reason::AddressNotAllowed),
    ];
    for (from, to, reason) in strangers {
        let login = Login::new(|_| tokens()).await;
        let port = login.endpoint.rsplit(':').next().unwrap().split('/').next().unwrap();
        let mut listing = document(1);
        let endpoint = format!("https://localhost:{port}/oauth/token/?tenant=1");
        let listed = format!(
            "\n[[gateway.token_endpoint]]\nurl = \"{endpoint}\"\naddresses = [\"127.0.0.0/8\"]\nca_file = \"login.pem\"\n"
        );
        listing.text.push_str(&listed.replace(from, to));
        let other = certificate::make(&["localhost"], Asks::Nobody).unwrap();
        listing.attachments.insert("login.pem".to_owned(), other.ca_pem);
        assert_eq!(process::reload(&login.stand.gateway, order(listing)).await, Vec::<String>::new());
        let login = Login { endpoint, ..login };
        let refreshed = login.refresh(login.parts(basic())).await;
        let code = refreshed.reason.unwrap().code;
        let loopback = code == Reason::AddressLoopback.code() && reason == Reason::AddressNotAllowed;
        assert!(code == reason.code() || loopback, "{code} {to}");
        assert_eq!(login.asked().len(), 0, "{to}");
    }
}

#[tokio::test]
async fn two_that_refresh_at_once_make_one_exchange_and_both_have_its_tokens() {
    let login = Login::new(|_| tokens()).await;
    let (one, other) = tokio::join!(login.refresh(login.parts(basic())), login.refresh(login.parts(basic())));
    assert_eq!(login.asked().len(), 1);
    assert!(one.renewed.is_some() && one.renewed == other.renewed, "{one:?} {other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_began_is_heard_out_when_the_stream_that_asked_for_it_breaks() {
    let (reached, goes_on) = (Arc::new(Semaphore::new(0)), Arc::new(std::sync::Barrier::new(2)));
    let (told, wait) = (Arc::clone(&reached), Arc::clone(&goes_on));
    let login = Login::new(move |_| {
        told.add_permits(1);
        tokio::task::block_in_place(|| wait.wait());
        tokens()
    });
    let login = login.await;
    let command = CommandBody::OauthRefresh { parts: Box::new(login.parts(basic())) };
    tokio::select! {
        answer = login.handler.obey(command) => panic!("{answer:?}"),
        permit = reached.acquire() => permit.unwrap().forget(),
    }
    // The command's future is dropped now, as with its stream.
    tokio::task::block_in_place(|| goes_on.wait());
    let again = login.refresh(login.parts(basic())).await;
    assert_eq!((again.attempt.status, login.asked().len()), (RefreshStatus::Succeeded, 1), "it was kept");
}

#[tokio::test]
async fn an_answer_that_custody_could_not_take_outlives_the_gateway_sealed_and_nobody_is_asked_again() {
    let login = Login::new(|_| tokens()).await;
    login.stand.custody.is_away.store(true, Ordering::Relaxed);
    let refreshed = login.refresh(login.parts(basic())).await;
    assert_eq!((refreshed.attempt.status, refreshed.renewed), (RefreshStatus::ConnectError, None));
    let file = login.stand.directory.path().join("answers.json");
    let kept = std::fs::read(&file).unwrap();
    assert!(
        !Detector::new([b"new-access-token-0123456789".as_slice(), b"new-refresh-token-0123456789"]).is_in(&kept),
        "sealed"
    );
    login.stand.custody.is_away.store(false, Ordering::Relaxed);
    let login = login.restarted().await;
    let refreshed = login.refresh(login.parts(basic())).await;
    assert_eq!(refreshed.attempt.status, RefreshStatus::Succeeded);
    assert_eq!(login.asked().len(), 1, "the refresh token was used up");
    let handed_over = std::mem::take(&mut *login.stand.custody.handed_over.lock().unwrap());
    let [answer] = handed_over.as_slice() else { panic!("{handed_over:?}") };
    assert_eq!(answer.access.binding.kind, "mcp_oauth");
    let to: Vec<_> = answer.access.sealed.wraps.iter().map(|wrap| wrap.public_key.as_str()).collect();
    assert_eq!(to, [PERIMETER], "for this perimeter alone");
    assert_eq!(std::fs::read(&file).unwrap(), b"[]", "custody has it");
}

#[tokio::test]
async fn a_draining_gateway_begins_no_exchange() {
    let login = Login::new(|_| tokens()).await;
    login.stand.gateway.drain.start();
    let refused = login.handler.obey(CommandBody::OauthRefresh { parts: Box::new(login.parts(basic())) }).await;
    assert_eq!(refused.unwrap_err().code, Reason::GatewayDraining.code());
    assert_eq!(login.asked().len(), 0);
}

#[tokio::test]
async fn parts_that_are_none_are_refused_before_anybody_is_asked() {
    let login = Login::new(|_| tokens()).await;
    let parts = OauthParts { access: "hello".to_owned(), refresh: None };
    for command in [
        CommandBody::OauthRefresh { parts: Box::new(parts.clone()) },
        CommandBody::OauthValidate { parts: Box::new(parts) },
    ] {
        let CommandRefusal { code, .. } = login.handler.obey(command).await.unwrap_err();
        assert_eq!(code, "credential_unopenable");
    }
    assert!(login.stand.custody.refreshes.lock().unwrap().is_empty());
}

async fn mcp(token: &str, json: bool) -> PrivateMcp {
    let manner = Manner { json, ..Manner::default() };
    PrivateMcp::start("127.0.0.1:0".parse().unwrap(), token, manner).await.unwrap()
}

#[tokio::test]
async fn a_credential_that_works_is_valid_and_nothing_is_refreshed() {
    for json in [false, true] {
        let server = mcp(SECRET, json).await;
        let login = Login::before(server.address.port(), |_| tokens()).await;
        let validated = login.validate(login.parts(basic())).await;
        assert_eq!((validated.status, &validated.mcp_probe), (Verdict::Valid, &None), "{validated:?}");
        assert!(validated.refresh.is_none() && login.asked().is_empty());
        let grants = login.stand.custody.grants.lock().unwrap();
        assert_eq!(grants[0].purpose, postern_custody::RoutePurpose::Validation);
        let said = login.stand.custody.said.lock().unwrap().clone();
        assert_eq!(said, [format!("close {}", grants[0].session)], "custody keeps nothing of it");
        let kinds = [Kind::McpCall, Kind::McpOutcome].map(|kind| login.stand.records(kind).len());
        assert_eq!(kinds, [1, 1]);
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_refreshed_and_the_new_one_tried() {
    let server = mcp("new-access-token-0123456789", true).await;
    let login = Login::before(server.address.port(), |_| tokens()).await;
    let validated = login.validate(login.parts(basic())).await;
    assert_eq!((validated.status, &validated.mcp_probe), (Verdict::Valid, &None), "{validated:?}");
    let refresh = validated.refresh.unwrap();
    assert_eq!(refresh.attempt.status, RefreshStatus::Succeeded);
    assert!(refresh.renewed.is_some(), "the control plane is to have it");
}

#[tokio::test]
async fn each_way_not_to_work_has_its_verdict_and_shows_no_secret() {
    use RefreshStatus::{ConnectError, Failed, NoRefreshToken, Succeeded};
    let refused = |_: &Seen| json("400 Bad Request", r#"{"error": "invalid_grant"}"#);
    let busy = |_: &Seen| json("503 Down", "{}");
    type Answers = fn(&Seen) -> Answer;
    let table: [(&str, &str, bool, Answers, Verdict, RefreshStatus); 5] = [
        ("no refresh token", "another-token-0123456789", false, |_| tokens(), Verdict::Invalid, NoRefreshToken),
        ("grant gone", "another-token-0123456789", true, refused, Verdict::Invalid, Failed),
        ("endpoint busy", "another-token-0123456789", true, busy, Verdict::Unknown, Failed),
        (
            "endpoint silent",
            "another-token-0123456789",
            true,
            |_| Answer::Close(vec![]),
            Verdict::Unknown,
            ConnectError,
        ),
        ("still refused", "another-token-0123456789", true, |_| tokens(), Verdict::Invalid, Succeeded),
    ];
    for (what, expected, refreshes, answers, verdict, refresh) in table {
        let server = mcp(expected, true).await;
        let login = Login::before(server.address.port(), answers).await;
        let mut parts = login.parts(basic());
        parts.refresh = parts.refresh.filter(|_| refreshes);
        let validated = login.validate(parts).await;
        assert_eq!((validated.status, validated.refresh.unwrap().attempt.status), (verdict, refresh), "{what}");
        let probe = validated.mcp_probe.unwrap();
        let response = probe.http_response.unwrap();
        assert_eq!((probe.method.as_str(), response.status_code), ("initialize", 401), "{what}");
        assert_eq!((response.body.as_str(), response.body_truncated), ("", true), "it names the key it expects");
    }
}

#[tokio::test]
async fn an_mcp_server_that_fails_otherwise_is_shown_scrubbed_and_nothing_is_refreshed() {
    for (answer, verdict, code) in [
        (format!("400 Bad {SECRET}"), Verdict::Invalid, Some(400)),
        ("404 Not Found".to_owned(), Verdict::Invalid, Some(404)),
        ("429 Wait".to_owned(), Verdict::Unknown, Some(429)),
        ("500 Broken".to_owned(), Verdict::Unknown, Some(500)),
        ("302 Found".to_owned(), Verdict::Unknown, Some(302)),
        ("200 OK".to_owned(), Verdict::Unknown, Some(200)),
    ] {
        let status = answer.clone();
        let upstream = Stand::new(move |seen| {
            // What it got, and that in Base64.
            let body = format!("{} {}\0\u{1b}[31m", seen.head, STANDARD.encode(SECRET));
            whole(
                &status,
                &format!("content-type: text/plain; {SECRET}\r\nlocation: http://evil.example/\r\n"),
                body.as_bytes(),
            )
        })
        .await;
        let login = Login::before(upstream.port, |_| tokens()).await;
        let validated = login.validate(login.parts(basic())).await;
        assert_eq!((validated.status, &validated.refresh), (verdict, &None), "{answer}");
        let response = validated.mcp_probe.unwrap().http_response.unwrap();
        assert_eq!(Some(response.status_code), code);
        assert!(response.body.contains("POST /mcp") && !response.body_truncated, "{answer}: {}", response.body);
        assert!(!response.body.contains(['\0', '\u{1b}']), "{answer}: it gives a terminal no orders");
        assert!(login.asked().is_empty());
    }
    let login = Login::new(|_| tokens()).await;
    let validated = login.validate(login.parts(basic())).await;
    assert_eq!((validated.status, validated.mcp_probe.unwrap().http_response), (Verdict::Unknown, None), "not reached");
    assert_eq!(validated.reason.unwrap().code, "upstream_unreachable");
}

#[tokio::test]
async fn a_server_that_says_nothing_or_too_much_to_a_validation_tells_nothing_of_the_credential() {
    let long =
        |bytes: usize| move |_: &Seen| json("200 OK", &super::stand::result(&"x".repeat(bytes)).replace(":7", ":1"));
    type Answers = Box<dyn Fn(&Seen) -> Answer + Send + Sync>;
    let table: [(&str, Answers, &str); 3] = [
        ("silent", Box::new(|_| Answer::Hang(Vec::new())), "initialize"),
        ("too long", Box::new(long(limits::VALIDATION_BYTES)), "initialize"),
        ("long", Box::new(long(limits::VALIDATION_BYTES / 2)), "tools/list"),
    ];
    for (what, answers, method) in table {
        let upstream = Stand::new(answers).await;
        let login = Login::before(upstream.port, |_| tokens()).await;
        let began = Instant::now();
        let validated = login.validate(login.parts(basic())).await;
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        assert_eq!(
            (validated.status, validated.mcp_probe.unwrap().method.as_str()),
            (Verdict::Unknown, method),
            "{what}"
        );
    }
}
